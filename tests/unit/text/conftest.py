from tests.unit.front.conftest import checkpoint as checkpoint
from tests.unit.front.conftest import text as text
from tests.unit.front.conftest import tokenizer as tokenizer
