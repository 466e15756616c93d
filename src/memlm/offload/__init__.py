"""Banks for reading alone, whose values are elsewhere than on the device, or there in fewer bits. One file a kind."""

from memlm.offload.host import HostBank
from memlm.offload.int8 import Int8Bank
from memlm.offload.loading import HELD, hold, load, load_mapped
from memlm.offload.mapped import MappedBank

__all__ = ["HELD", "HostBank", "Int8Bank", "MappedBank", "hold", "load", "load_mapped"]
