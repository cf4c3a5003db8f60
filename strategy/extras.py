"""What few runs need, and fed-rebel does not install by itself: packages, and strategies of one's own."""

import importlib.util

from fed_rebel.settings import Settings, SettingsError
from strategy.strategies import strategy_of


def check_installed(settings: Settings) -> None:
    """Raise `SettingsError` where a package that the settings need is missing, with what installs it, and where
    `strategy.name` names no strategy."""
    noise = settings.strategy.noise_multiplier
    for needed, told, allowed, package, extra in (
        (settings.tracking == "tensorboard", "tracking = 'tensorboard'", "'none'", "tensorboard", "tracking"),
        (settings.tracking == "mlflow", "tracking = 'mlflow'", "'none'", "mlflow", "mlflow"),
        (noise > 0, f"strategy.noise_multiplier = {noise:g}", "0", "dp_accounting", "privacy"),
    ):
        if needed and importlib.util.find_spec(package) is None:
            raise SettingsError(
                f"{told}: {package} is not installed; allowed: {allowed}, or pip install 'fed-rebel[{extra}]'"
            )
    strategy_of(settings, 0)
