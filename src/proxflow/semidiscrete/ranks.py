"""The processes that share a fit: each searches its rows of every batch of noise, and all add up what they found.

Every process draws the same noise, which costs d numbers a row where the search costs N d products. Sums of counts are
exact, so that all processes hold the histogram of one, whatever their number, and move the same heights by it.

Invariant: processes exchange in one order. Before each exchange they tell one another whether one of them failed or
was interrupted, and then all stop at that place; a process that is gone is an error in all others. What decides how
a run continues comes from the first process, since another kind of processor may round it differently.

Only ``shared_atoms`` asks for the processes of a fit, too; alone, a process does nothing here.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import io
import time
import uuid
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from proxflow.kernels.search import searched_by, searches_are_split
from proxflow.progress import deferred_interrupts

if TYPE_CHECKING:
    from torch.distributed.distributed_c10d import Store

__all__ = ["ALONE", "Ranks", "joined_processes"]

T = TypeVar("T")

_ROWS = 16  # of noise come to a process together: a product rounds a row as its place among 16 says (kernels/search)
_LONGEST_WAIT = datetime.timedelta(minutes=30)  # for one another: the first process may solve exactly, or read slowly
_POLL = 0.02  # seconds between two looks for processes that join
_PROTOCOL = 4  # of pickle: in 2, the default, a ConnectionError comes back as an OSError
_AGAIN = "start all of them again, and with a checkpoint the fit goes on from there"


class Ranks:
    """This process among all that share a fit.

    Attributes:
        rank: its number; the first, 0, writes and reports.
        size: how many there are.
        shares_rows: whether each has its rows of noise; else all have all, and share the atoms (``split_atoms``).
    """

    def __init__(
        self, rank: int = 0, size: int = 1, device: torch.device | str = "cpu", *, shares_rows: bool = True
    ) -> None:
        self.rank, self.size, self.shares_rows = rank, size, shares_rows and size > 1
        self._device = torch.device(device)
        self._interrupted: Callable[[], bool] | None = None
        self._parted = False

    @classmethod
    def of_default_group(cls, device: torch.device | str = "cpu") -> Ranks:
        """Those of torch.distributed's default group, for tensors on ``device``; this process alone without one."""
        if not (dist.is_available() and dist.is_initialized()):
            return cls()
        return cls(dist.get_rank(), dist.get_world_size(), device, shares_rows=not searches_are_split())

    # ---------------------------------------------------------------- shares and sums

    def share(self, rows: Tensor) -> Tensor:
        """The rows (n, ...) that this process searches, a view."""
        return self.part(rows) if self.shares_rows else rows

    def part(self, rows: Tensor) -> Tensor:
        """A part of the rows (n, ...) for each process, a view, even where they share the atoms."""
        return rows[self._place(len(rows))] if self.size > 1 else rows

    def total(self, of_part: Tensor) -> Tensor:
        """The sum over the processes of what is of ``part``, the same in each bit by bit."""
        return self._sum(of_part) if self.size > 1 else of_part

    def takes(self, place: int) -> bool:
        """Whether the task of this number is this process's."""
        return not self.shares_rows or place % self.size == self.rank

    def summed(self, *parts: Tensor) -> tuple[Tensor, ...]:
        """Sums over the processes of tensors of one dtype, the same in each process bit by bit."""
        if not self.shares_rows:
            self.agree()
            return parts
        total = self._sum(torch.cat([part.reshape(-1) for part in parts]))
        pieces = total.split([part.numel() for part in parts])
        return tuple(piece.view_as(part) for piece, part in zip(pieces, parts, strict=True))

    def all_rows(self, own: Tensor, count: int) -> Tensor:
        """The results (count, ...) of all rows from those of each process's share."""
        if not self.shares_rows:
            return own
        rows = own.new_zeros(count, *own.shape[1:])
        rows[self._place(count)] = own
        return self._sum(rows)

    def from_first(self, compute: Callable[[], T]) -> T:
        """What the first process computes, or the error that it meets, in all processes."""
        if self.size == 1:
            return compute()
        self.agree()
        if self.rank == 0:
            return self._told(compute)
        with contextlib.nullcontext() if self._interrupted else deferred_interrupts():  # the first one hears Ctrl-C
            content = self._added(torch.zeros(int(self._added(torch.tensor([0]))), dtype=torch.uint8))
        value, error = torch.load(io.BytesIO(content.numpy().tobytes()), self._on_own_device, weights_only=False)
        if error is not None:
            raise error
        result: T = value
        return result

    # ---------------------------------------------------------------- agreement

    def require_same(self, *arguments: object) -> None:
        """Refuse to share a fit among processes that were given different ones.

        Raises:
            ValueError: the arguments print differently in some process; in all of them.
        """
        if self.size == 1:
            return
        digests = torch.zeros(self.size, 32, dtype=torch.float64)
        digests[self.rank] = torch.tensor(list(hashlib.sha256(repr(arguments).encode()).digest()))
        digests = self._sum(digests)
        others = torch.nonzero((digests != digests[:1]).any(1))[:, 0].tolist()
        if others:
            raise ValueError(
                f"fit: process {others[0]} of {self.size} was called with other data or arguments than process 0; "
                "every process of the group must make the same call"
            )

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """All processes leave this block: where one fails, the others with an error too."""
        if self.size == 1:
            yield
            return
        try:
            yield
            self.agree()
        except Exception:
            if not self._parted:
                with contextlib.suppress(ConnectionError):
                    self.agree(failed=True)
            raise

    @contextlib.contextmanager
    def interruptible(self) -> Iterator[None]:
        """Ctrl-C in any process interrupts all in their next exchange; pressed again, that process at once."""
        if self.size == 1:
            yield
            return
        outer = self._interrupted
        with deferred_interrupts() as self._interrupted:
            try:
                yield
            finally:
                self._interrupted = outer

    def agree(self, *, failed: bool = False) -> None:
        """Raises in all processes where one failed or was interrupted."""
        if self.size == 1:
            return
        interrupted = self._interrupted is not None and self._interrupted()
        failures, interruptions = self._added(torch.tensor([int(failed), int(interrupted)])).tolist()
        if failed:
            return
        if failures:
            self._parted = True
            raise _left("failed")
        if interruptions:
            raise KeyboardInterrupt

    # ---------------------------------------------------------------- inside

    def _told(self, compute: Callable[[], T]) -> T:
        """What a function returns or raises here, once the other processes have it too."""
        try:
            with searched_by(None):  # it is alone in this
                value = compute()
        except BaseException as error:
            plain = type(error).__module__ == "builtins"  # others need more than their message to be made again
            self._send((None, error if plain else _left(f"failed ({error})")))
            raise
        self._send((value, None))
        return value

    def _send(self, result: tuple[object, object]) -> None:
        buffer = io.BytesIO()
        torch.save(result, buffer, pickle_protocol=_PROTOCOL)
        packed = torch.frombuffer(buffer.getbuffer(), dtype=torch.uint8)
        self._added(torch.tensor([len(packed)]))
        self._added(packed)

    def _place(self, count: int) -> slice:
        first, last = (min(count, _ROWS * round(count * k / (_ROWS * self.size))) for k in (self.rank, self.rank + 1))
        return slice(first, count if self.rank + 1 == self.size else last)

    def _sum(self, tensor: Tensor) -> Tensor:
        self.agree()
        return self._added(tensor)

    def largest(self, tensor: Tensor) -> Tensor:
        """The largest over the processes of each entry."""
        return self._added(tensor, dist.ReduceOp.MAX)

    def _added(self, tensor: Tensor, operation: dist.ReduceOp.RedOpType = dist.ReduceOp.SUM) -> Tensor:
        """The one exchange there is: a sum over the processes, or the largest, on a device that their group knows."""
        total = tensor.to(self._exchange_device(), copy=True)
        try:
            dist.all_reduce(total, operation)
        except RuntimeError as error:
            self._parted = True
            raise _left("stopped") from error
        return total.to(tensor.device)

    def _exchange_device(self) -> torch.device:
        kinds = [backend.partition(":")[0] for backend in dist.get_backend_config().split(",")]
        if self._device.type in kinds:
            return self._device
        return torch.device("cpu" if "cpu" in kinds else kinds[0])

    def _on_own_device(self, storage: Any, location: str) -> Any:
        """Generators keep their states on the CPU, whatever device they draw on."""
        return torch.serialization.default_restore_location(storage, "cpu" if location == "cpu" else str(self._device))


ALONE = Ranks()


def _left(how: str) -> ConnectionError:
    return ConnectionError(f"fit: another process of this run {how}; {_AGAIN}")


@contextlib.contextmanager
def joined_processes() -> Iterator[None]:
    """Join the processes that torchrun started, this one among them, for as long as the block lasts."""
    from torch.distributed.distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    store, rank, size = next(rendezvous("env://", timeout=_LONGEST_WAIT))
    store = PrefixStore(_name_of_start(store, rank, size), store)
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"  # training averages gradients on the GPUs
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=_LONGEST_WAIT)
    try:
        yield
    finally:
        dist.destroy_process_group()


def _name_of_start(store: Store, rank: int, size: int) -> str:
    """A name that the processes of this start agree on, and those of no other start have.

    Where torchrun starts processes again, its store still holds the addresses of those before, and how often each
    node was started again need not be the same on all nodes. So the first process names the start, and answers
    the others by names that they made themselves, until each has heard.
    """
    own = uuid.uuid4().hex
    if rank > 0:
        store.set(f"proxflow/here/{rank}", own)
        name: str = store.get(f"proxflow/answer/{own}").decode()
        store.set(f"proxflow/heard/{name}/{rank}", "")
        return name
    waiting, began = set(range(1, size)), time.monotonic()
    while waiting:
        if time.monotonic() - began > _LONGEST_WAIT.total_seconds():
            raise ConnectionError(f"fit: {len(waiting)} of {size} processes did not come; {_AGAIN}")
        for other in [other for other in waiting if store.check([f"proxflow/here/{other}"])]:
            store.set(f"proxflow/answer/{store.get(f'proxflow/here/{other}').decode()}", own)
            if store.check([f"proxflow/heard/{own}/{other}"]):
                waiting.remove(other)
        time.sleep(_POLL if waiting else 0)
    return own
