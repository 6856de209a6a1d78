"""Processes that compute together, by torch.distributed's names."""

from tensorlib.utils.data.distributed import DistributedSampler
from tensorlib.utils.data.sharded import ShardedBatchSampler

from .communicator import Communicator, DistributedError, ReduceOp
from .ddp import DistributedDataParallel, loss_weight
from .process_group import (
    all_gather,
    all_gather_into_tensor,
    all_gather_object,
    all_reduce,
    barrier,
    broadcast,
    broadcast_object,
    broadcast_object_list,
    destroy_process_group,
    gather,
    get_communicator,
    get_rank,
    get_world_size,
    init_process_group,
    is_available,
    is_initialized,
    reduce_scatter,
    reduce_scatter_tensor,
)
from .sharded import Shard, ShardedDataParallel
from .tcp import TcpCommunicator
from .threads import ThreadCommunicator

__all__ = [
    "Communicator",
    "DistributedDataParallel",
    "DistributedError",
    "DistributedSampler",
    "ReduceOp",
    "Shard",
    "ShardedBatchSampler",
    "ShardedDataParallel",
    "TcpCommunicator",
    "ThreadCommunicator",
    "all_gather",
    "all_gather_into_tensor",
    "all_gather_object",
    "all_reduce",
    "barrier",
    "broadcast",
    "broadcast_object",
    "broadcast_object_list",
    "destroy_process_group",
    "gather",
    "get_communicator",
    "get_rank",
    "get_world_size",
    "init_process_group",
    "is_available",
    "is_initialized",
    "loss_weight",
    "reduce_scatter",
    "reduce_scatter_tensor",
]
