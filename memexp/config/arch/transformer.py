"""Options of architectures whose only memory is attention: to the segment, or to a cache beside it."""

from dataclasses import dataclass

from memexp.config.arch.base import SINKS, AttentionArch, Beside, CacheArch, check_sinks, class_name
from memexp.config.field import setting


@dataclass
class VanillaArch(AttentionArch):
    """Group `arch`, a decoder without memory."""

    _target_: str = class_name("vanilla.Vanilla")

    def beside_a_checkpoint(self) -> str | None:
        """Only options of attention, which a checkpoint has itself."""
        return self._not_of_a_checkpoint()


@dataclass
class XlArch(CacheArch):
    """Group `arch`, Transformer-XL."""

    _target_: str = class_name("xl.Xl")

    sinks: int = setting(0, SINKS, unit="tokens", low=0, later=True)

    def beside_a_checkpoint(self) -> str | None:
        """Only options of attention, which a checkpoint has itself."""
        return self._not_of_a_checkpoint()

    def check(self, beside: Beside) -> None:
        """Refuse too sinks that no token would see."""
        super().check(beside)
        check_sinks(self.sinks, self.reach)


@dataclass
class XlEnhancedArch(CacheArch):
    """Group `arch`, Transformer-XL with enhanced recurrence."""

    _target_: str = class_name("xl_enhanced.XlEnhanced")
