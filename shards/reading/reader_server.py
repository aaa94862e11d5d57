"""What the server of reader processes imports first, and nothing else does: it ends with its rank.

A reader holds the pipe that tells the server of its rank's end, so of a rank that was killed, or
left without closing its readers, neither would ever hear.
"""

import signal

from shards.lifetime import die_with_parent

die_with_parent(signal.SIGKILL)
