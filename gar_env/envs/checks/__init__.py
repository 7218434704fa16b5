"""The vector environment contract as one call."""

from gar_env.envs.checks.contract import Report, check_vector_env

__all__ = ["Report", "check_vector_env"]
