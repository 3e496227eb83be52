"""unsloth-watch: launches a fine-tune, proves a hang, says why, mends it and relaunches.

Importing the package imports nothing else: the launch path and the user's own process both go through here.
"""

from unsloth_watch.__about__ import __version__

__all__ = ["__version__"]
