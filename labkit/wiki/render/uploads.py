"""Pictures as a wiki takes them: one name for one content. Pure."""

from __future__ import annotations

import hashlib
import re

from labkit.wiki.client.protocol import Upload
from labkit.wiki.render import wikitext


def upload(name: str, data: bytes, *, ending: str, text: str) -> Upload:
    """A picture to upload: one name for one content, so that nothing is ever overwritten."""
    slug = re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-")[:40] or "picture"
    hashed = hashlib.sha256(data).hexdigest()[:16]
    return Upload(name=f"Labkit-{slug}-{hashed}.{ending}", text=wikitext.literal(text), data=data)
