"""Plain against residual networks by depth: the study of He et al. 2015, section 4.2."""

from .config import StudyConfig
from .protocols import PROTOCOLS, Protocol
from .results import StudyResults
from .runner import resume_study, run_study

__all__ = ["PROTOCOLS", "Protocol", "StudyConfig", "StudyResults", "resume_study", "run_study"]
