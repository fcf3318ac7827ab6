"""Interactive calls as open calls, which end when their token is no longer good."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from casola_site.core.errors import ApiError, InsufficientScope, ModelNotFound
from casola_site.core.scopes import Scope
from inference.hub import hub
from tokens import open_calls
from tokens.identity import Identity
from usage.slots import slots

if TYPE_CHECKING:
    from inference.api.interactive import Call


@dataclass(slots=True)
class OpenInteractive:
    """See `tokens.open_calls.OpenCall`."""

    call: Call
    scope: Scope

    @property
    def identity(self) -> Identity:
        """The caller."""
        return self.call.identity

    @identity.setter
    def identity(self, found: Identity) -> None:
        self.call.identity = found

    async def reload(self) -> Identity:
        """The caller, if they may still do this. Raises AuthenticationFailed and its like."""
        identity = await open_calls.load_identity(self.call.identity.digest)
        if self.scope not in identity.scopes:
            raise InsufficientScope(self.scope)
        if not identity.may_use(self.call.model.model_id):
            raise ModelNotFound(self.call.requested_model)
        return identity

    def end(self, error: ApiError) -> None:
        """Wherever it is, in line or at a Runner."""
        slots().end(self.call.job_id, error)
        hub().end(self.call.job_id, error)
