"""Record: the base class of labkit's frozen values."""

from pydantic import BaseModel, ConfigDict


class Record(BaseModel):
    """A frozen value with a JSON round trip; an unknown key is a damaged file."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)
