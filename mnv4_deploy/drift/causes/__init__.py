"""Why a layer lost precision: rules over its evidence, and experiments at the input."""
