"""
Coalescing: the pending calls of many tasks, sent together in batches.

The life of a call
------------------

::

    create_or_update()        coalescer.py   the caller's task
      | read                  requests.py    arguments become a request shape and values
      | admitted              admission.py   the call has one of max_pending slots
      |                                      (or its caller waits for one, in order)
      | queued                queue.py       ready, or put aside while its row is under way
      | under way             dispatch.py    in the batch of exactly one lease
      | set aside             locks.py       if its row is locked by another session
      | answered              sending.py     a result, or an error of its own
      v
    the caller goes on; its slot is free

A *lease* is a task with a connection: it acquires one from the pool, or uses the
caller's only one, sends a batch, and up to a few more before it gives the connection
back. The calls that are queued meanwhile make the next batches.

Over a pool, a batch waits for a lock of another session only for a moment. What was
locked is set aside: one lease more sends those calls, each once its row is free, and the
other leases go on without them.

What always holds
-----------------

1.  Each caller is answered exactly once. A call that has left the queue is in the batch
    of one lease, and however that lease ends, it fails the calls of its batch that have
    no answer. A call that is still queued when nothing more is sent fails there.
2.  Two batches under way never have a row in common. A batch holds its rows from
    `Queue.take` until `Queue.release`, also while its calls are set aside for a lock;
    calls for them are put aside. Rows are compared
    by the hash of the key: rows that collide wait for each other, which does no harm.
3.  The calls for one row are sent in the order in which they were made. Callers are
    admitted in order, the queue is first in, first out for each row, and within a batch
    the calls for one row are applied in order.
4.  At most *max_pending* calls are admitted. A slot is free again when its caller has
    been answered or cancelled, whichever comes first.
5.  At most *concurrency* connections are leased at once, and one for calls whose rows
    are locked. Without *concurrency* it is three, or all of the pool while each call
    takes the database long (see `Pace`).
6.  A call is sent at most once, unless it is certain that nothing of it was stored.
7.  A lease runs in a copy of the context in which the coalescer was entered: no batch
    sees a context variable of one of its callers.

The end
-------

A cancelled caller leaves its slot at once. If its call has not been sent, the call is
withdrawn: its future is cancelled, and the sender skips it. If it has been
sent, it is left to finish, and its result is dropped.

`Coalescer.aclose` admits no new call, sends what is queued, and returns when no lease is
left. After its timeout, or if it is itself cancelled, it fails every pending call, and
cancels the leases: the error of a call under way says that its outcome is unknown. A
lease that does not end soon has its connection closed, since the server may be out of
reach. If the event loop ends, leases are cancelled as well.

State and awaiting
------------------

`Admission`, `Queue` and `Schedule` decide. Their methods are synchronous and change
their state in one go, so between two awaits everything above holds, and no lock is
needed. Awaiting is left to those for whom is decided: a caller awaits its slot
(`Admission.wait_for_slot`) and its answer (`Coalescer.create_or_update`), a lease its
connection and the database (`Dispatcher`), and closing the last lease.
"""

from aioupsert._coalescer.coalescer import Coalescer

__all__ = ["Coalescer"]
