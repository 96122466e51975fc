import chts
import chts_core


def test_the_name_that_pip_installs_can_be_imported() -> None:
    assert chts.__all__ == chts_core.__all__
    assert all(getattr(chts, name) is getattr(chts_core, name) for name in chts_core.__all__)
    assert chts.__version__ == chts_core.__version__
