"""The one way to SQL: connections, errors, tables, migrations."""
