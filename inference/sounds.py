"""The sound of a request: from an upload or an address to samples, before the engine sees it.

Fetching blocks and reading takes seconds, so both run in threads, as with images; the file itself is
opened in a sandbox (`runners/media_guard.py`). The contract then has `samples` (mono, 16 bits, RATE
a second, in a file of their own) in place of where they came from.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from typing import IO, Any

from django.utils import timezone

from casola_site.core import outputs
from casola_site.core.errors import ApiError, InvalidRequest
from casola_site.core.fetch import fetch
from inference.contracts.surfaces import SOUND_TASKS
from inference.contracts.transcription import LONGEST_SECONDS
from inference.images import ImageDesk
from inference.runners.base import Failed, InvalidInput
from inference.runners.media_guard import MediaGuard
from inference.work import Work

RATE = 16_000
BARE, BARE_RATE = "pcm", 24_000  # what /audio/speech gives as pcm


class SoundDesk(ImageDesk):
    """Reads the sounds of requests; see ImageDesk."""

    what = "sound"

    def __init__(
        self,
        *,
        contract_of: Callable[[Work], dict[str, Any]],
        on_loaded: Callable[[Work, Failed | None], None],
    ) -> None:
        """See ImageDesk."""
        super().__init__(takes_images=False, contract_of=contract_of, on_loaded=on_loaded)
        self._guard = MediaGuard()

    def holds(self, work: Work) -> bool:
        """Whether this request has a sound."""
        return work.task in SOUND_TASKS

    def must_fetch(self, work: Work) -> bool:
        """Whether it is not here yet."""
        return self.holds(work) and work.loaded is None

    def contract(self, work: Work) -> dict[str, Any]:
        """The engine's input with the samples in it. Blocking. Raises InvalidInput or Busy."""
        if work.loaded is not None or not self.holds(work):
            return work.loaded or self._contract_of(work)
        contract = self._contract_of(work)
        param = "url" if contract.get("url") else "file"
        with tempfile.TemporaryFile() as file:
            kind = _fill(file, contract)
            samples = self._guard.sound(
                file,
                rate=RATE,
                seconds=LONGEST_SECONDS,
                param=param,
                raw=BARE_RATE if kind == BARE else None,
            )
        return {**contract, "samples": samples}

    def close(self) -> None:
        """Drop what has not begun, end the sandbox."""
        super().close()
        self._guard.close()


def _fill(file: IO[bytes], contract: dict[str, Any]) -> str | None:
    """Copy the sound into a file of this process; what its sender says it is."""
    name, url = contract.get("upload"), str(contract.get("url") or "")
    param = "url" if url else "file"
    try:
        name = name or outputs.own_name(url, now=timezone.now())
        if name:
            with outputs.read(name) as content:
                shutil.copyfileobj(content, file)
            file.flush()
            return contract.get("kind") or name.rpartition(".")[2]
    except (OSError, ValueError, ApiError) as error:
        raise InvalidInput("The file is gone", code="invalid_audio", param=param) from error
    try:
        found = fetch(url)
    except InvalidRequest as error:
        raise InvalidInput(error.message, code=error.code, param="url") from error
    file.write(found.content)
    file.flush()
    says_so = found.content_type == f"audio/{BARE}" or url.partition("?")[0].endswith(f".{BARE}")
    return BARE if says_so else None
