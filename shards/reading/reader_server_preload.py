"""First module that the fork server of the reader processes imports: ties it to its rank.

The fork server normally ends when the pipe from its rank is closed. Its reader processes inherit
that pipe, so the server and the readers of a rank that was killed, or that exited without closing
them, would stay for ever. Only the server imports this module.
"""

import signal

from shards.lifetime import die_with_parent

die_with_parent(signal.SIGKILL)
