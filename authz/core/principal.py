"""Who is calling, once that is proven."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Principal:
    """
    The authenticated identity behind a credential.

    Args:
        key_id: The id under which the key is listed and revoked.
        prefix: The key's display prefix (`sk-live-1a2b3c4d`): names the key in logs, gives nothing away.
        subject: Whom the key speaks for; without one of its own, the key's id.
        workspace: The tenant's workspace; empty where there is none.
        scopes: Granted scopes, as granted (what they include is the policy's business), in their stored order.
    """

    key_id: str
    prefix: str
    subject: str
    workspace: str
    scopes: tuple[str, ...]
