"""The search of ``export --max-drop``: what buys accuracy back, and at what price."""
