"""The words that a web process and a Runner exchange over their Links (pure).

web process -> Runner: REQUEST [.., job_id, attempt, request], CANCEL [.., job_id], BEAT [..]
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

BEAT_SECONDS = 1.0
SILENCE_SECONDS = 3.0
ACK_SECONDS = 1.0
