"""The words that a web process and a Runner exchange over their Links (pure).

web process -> Runner: REQUEST [.., job_id, attempt, request], CANCEL [.., job_id, reason],
    BEAT [.., [job_id, …]] with all it waits for, MORE [.., job_id, taken]: the caller has taken so
    many bytes of an answer that is no text
Runner -> web process: ACK [.., job_id, attempt], START [.., job_id, attempt, prompt_tokens, queue_ms],
    TEXT [.., job_id, attempt, offset, text], PART [.., job_id, attempt, offset, part] (whatever is
    not plain content of the first choice), BYTES [.., job_id, attempt, offset, data],
    SIZE [.., job_id, attempt, size, queue_ms, model_ms] (that many BYTES come, all is written), END [.., job_id, attempt, offset, end],
    ERROR [.., job_id, attempt, error], AWAY [.., job_id, attempt] (not begun, ask another),
    BEAT [.., {job_id: [attempt, offset], …}] with all it works on

`offset` counts the characters or bytes sent before, and one more for each PART: a frame that does not fit means a lost one. Frames arrive
in order, so a BEAT that lacks a request, or shows another offset, means a lost one too.
"""

from __future__ import annotations

REQUEST = "req"
CANCEL = "can"
BEAT = "beat"
MORE = "more"
ACK = "ack"
START = "sta"
TEXT = "txt"
PART = "part"
BYTES = "byt"
SIZE = "size"
END = "end"
ERROR = "err"
AWAY = "away"

# Why a request is cancelled: its caller went away (charged), waiting took too long or the other end
# lost track of it (both our fault: not charged), or another attempt answers (nothing is recorded).
LEFT = "left"
TIMEOUT = "timeout"
LOST = "lost"
MOVED = "moved"

BEAT_SECONDS = 1.0
SILENCE_SECONDS = 3.0
ACK_SECONDS = 1.0
