"""Settings of the pages that people look at."""

from pydantic import BaseModel

from config.fields import setting


class DocsSettings(BaseModel):
    """Who may read the description of the API."""

    docs_public: bool = setting(
        True,
        "DOCS_PUBLIC",
        help="Whether the API's description is for everybody. If not, and AUTH_ENABLED is true, "
        "/openapi.json needs the same sign-in as embedding, and /docs and /redoc ask for it.",
    )
