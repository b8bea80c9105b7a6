"""How a checkout gets its environment: found, made or mended. Standard library only."""
