"""Settings of how providers' keys are kept."""

from typing import Self

from pydantic import BaseModel, SecretStr, model_validator

from config.access import PLACEHOLDER, secrets_of
from config.fields import setting

MAKE_ONE = (
    "python -c 'from cryptography.fernet import Fernet; print(Fernet.generate_key().decode())'"
)


class VaultSettings(BaseModel):
    """How the keys of remote providers are kept."""

    encryption_key: SecretStr | None = setting(
        None,
        "ENCRYPTION_KEY",
        help="Encrypts the providers' keys that are kept in SQL. A comma list rotates: the first "
        "encrypts, all decrypt.",
    )

    @model_validator(mode="after")
    def _is_no_placeholder(self) -> Self:
        """Refuse what everybody knows where callers must say who they are."""
        placeholders = any(map(PLACEHOLDER.match, secrets_of(self.encryption_key)))
        if placeholders and getattr(self, "auth_enabled", False):  # a setting of config/access.py
            raise ValueError(f"ENCRYPTION_KEY is a placeholder; make one with: {MAKE_ONE}")
        return self
