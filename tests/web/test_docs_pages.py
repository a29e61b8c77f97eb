"""Swagger UI and Redoc in a real browser: they show every route and ask no other machine."""

from playwright.sync_api import Page, expect


def test_swagger_shows_the_routes_and_calls_one(page: Page, url: str) -> None:
    page.goto(f"{url}/docs")
    expect(page.locator(".opblock-summary-path").first).to_be_visible()
    row = page.locator("#operations-service-get_ops_health")
    row.locator(".opblock-summary-control").click()
    row.get_by_role("button", name="Try it out").click()
    row.get_by_role("button", name="Execute").click()
    expect(row.locator(".live-responses-table")).to_contain_text("healthy")


def test_redoc_shows_the_routes(page: Page, url: str) -> None:
    page.goto(f"{url}/redoc")
    expect(page.get_by_role("heading", name="Embed one text or many.")).to_be_visible()
    page.get_by_placeholder("Search...").fill("collection")
    expect(page.locator("[data-role='search:results']")).to_be_visible()
