"""The addresses that replicas have are remembered while the farm is up, so that nobody else's coming or going
moves them."""

from __future__ import annotations

from labkit.core.files import write_atomically
from labkit.core.journal import Journal
from labkit.model import addresses
from labkit.model.addresses import Allotment
from labkit.model.lab import Lab


def remember(lab: Lab, *, others: bool) -> None:
    """The lab's replicas have their addresses from now on; ``others``: those that are not in the lab any more,
    and may be there yet, have theirs, too. The caller holds the lab's ``farm`` lock."""
    known = addresses.remembered(lab.addresses_file)
    own = {item.name: int(item.address) - int(lab.subnet.network_address) for item in lab.farm}
    before = known if others else Allotment()
    wanted = Allotment(
        netns=lab.host.netns,
        sites={**before.sites, **lab.numbers},
        hosts={**before.hosts, **own},
    )
    if known != wanted:
        Journal.of(lab).intend("folder", path=str(lab.addresses_file.parent))
        write_atomically(lab.addresses_file, wanted.model_dump_json())
