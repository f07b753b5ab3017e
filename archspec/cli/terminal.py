"""What verbs that load models share: the libraries' own bars and notices are kept off the terminal."""

from __future__ import annotations


def quiet_libraries() -> None:
    """Silence progress bars and advice of diffusers and transformers; errors still come."""
    import diffusers
    import transformers

    diffusers.utils.logging.set_verbosity_error()
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
