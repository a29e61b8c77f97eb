"""Settings of the pages that people look at."""

from pydantic import BaseModel

from config.fields import setting


class DocsSettings(BaseModel):
    """Who may read the description of the API."""

    docs_public: bool = setting(
        True,
        "DOCS_PUBLIC",
        help="Whether /docs, /redoc and /openapi.json are for everybody; if not, they need the "
        "same sign-in as embedding does.",
    )
