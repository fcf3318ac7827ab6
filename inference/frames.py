"""The words that a web process and a Runner exchange over their Links (pure).

web process -> Runner: REQUEST [.., job_id, attempt, request], CANCEL [.., job_id, reason], BEAT [..]
Runner -> web process: ACK, START [.., job_id, attempt, prompt_tokens, queue_ms],
    TEXT [.., job_id, attempt, offset, text], END [.., job_id, attempt, offset, end],
    ERROR [.., job_id, attempt, error], BEAT

`offset` counts the characters sent before: a frame that does not fit means a lost one.
"""

from __future__ import annotations

REQUEST = "req"
CANCEL = "can"
BEAT = "beat"
ACK = "ack"
START = "sta"
TEXT = "txt"
END = "end"
ERROR = "err"

# Why a request is cancelled: its caller went away (charged), waiting took too long or this end lost
# track of the answer (both our fault: not charged).
LEFT = "left"
TIMEOUT = "timeout"
LOST = "lost"

BEAT_SECONDS = 1.0
SILENCE_SECONDS = 3.0
ACK_SECONDS = 1.0
