"""Settings: every option once, with its default and why, from options, environment, TOML and profiles."""
