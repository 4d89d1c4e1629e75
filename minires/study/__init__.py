"""Plain against residual networks by depth: the study of He et al. 2015, section 4.2."""

from .protocols import PROTOCOLS, Protocol
from .runner import StudyConfig, resume_study, run_study

__all__ = ["PROTOCOLS", "Protocol", "StudyConfig", "resume_study", "run_study"]
