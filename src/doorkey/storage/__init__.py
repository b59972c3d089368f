"""Where keys live. Importing this imports no engine; ``urls.open_store`` does, one at a time."""
