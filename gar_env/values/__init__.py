"""What each training example is worth: by its gradient's alignment, by its margin, side by side."""

from gar_env.values.table import Values
from gar_env.values.valuation import Valuation, ValueOptions, value

__all__ = ["Valuation", "ValueOptions", "Values", "value"]
