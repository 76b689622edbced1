"""What each target can run: frozen profiles, one TOML file a device."""
