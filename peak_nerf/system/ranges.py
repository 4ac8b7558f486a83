"""Ranges of numbers that several commands have as options, so that they are the same everywhere: see `choices`."""

from typing import Annotated

from pydantic import Field

Steps = Annotated[int, Field(ge=1, le=10**7)]
"""Of a fit: what is beyond is a slip of the keyboard, not a plan."""
Seconds = Annotated[float, Field(gt=0, le=1e7)]
"""Of a budget: up to a third of a year."""
LearningRate = Annotated[float, Field(gt=0, le=10)]
"""Adam's."""
Weight = Annotated[float, Field(ge=0, le=1e6)]
"""Of a regulariser."""
Features = Annotated[int, Field(ge=1, le=2**12)]
"""Of an encoding or of g, and the width of a network."""
Layers = Annotated[int, Field(ge=1, le=100)]
"""Of a network."""
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]
"""As numpy's legacy generator takes it."""
