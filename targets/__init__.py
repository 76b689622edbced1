"""What each target can run: frozen profiles, one TOML file a device."""

from __future__ import annotations

from archnet.targets.profile import OperatorSupport, Probe, Profile, list_profiles, load_profile

__all__ = ["OperatorSupport", "Probe", "Profile", "list_profiles", "load_profile"]
