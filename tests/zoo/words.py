"""The texts of the zoo: what its tokenizers learn from, and the sixty that every model embeds."""

import csv
import random
from pathlib import Path

ARTICLES = Path(__file__).parent.parent / "web" / "articles.csv"
FOREIGN = (
    "Вечером мы вернулись домой и долго говорили о погоде, книгах и старых друзьях. "
    "Центральный банк повысил ставку, а цены на хлеб выросли. Где находится библиотека? "
    "قرأت كتابا عن تاريخ المدينة القديمة وعن البحر. أين تقع المكتبة؟ ارتفعت الأسعار اليوم. "
    "我们晚上回家谈论天气和旧书。图书馆在哪里？今天价格上涨了。 "
    "東京の図書館はどこにありますか。昨日は雨が降っていました。 한국어 문장도 하나 있습니다. "
    "Der Zug fährt über die Brücke, während die Müllerin süße Äpfel schält. "
    "L'élève a reçu une leçon d'été à côté de la forêt. El niño comió piñas en Málaga. "
    "Η θάλασσα είναι ήρεμη σήμερα. यह पुस्तक बहुत अच्छी है। הספר נמצא על השולחן. "
    "👍 🎉 👩‍👩‍👧 🇩🇪 naïve café — “quoted” … €100 ½ №7 "
)
ODD = (
    "a", "I", "7", "?", "the", "Ω", "漢", "🙂", " ", "\n\t ", "   two  spaces   ", "x" * 300,
    "[SEP]", "a [SEP] b", "[CLS] [MASK] [PAD]", "</s>", "<s> a </s> b", "<|endoftext|>",
    "one<|endoftext|>two", "<pad><unk><mask>", "<eos> <bos>", "<|im_start|>user\nhi<|im_end|>",
    "图书馆在哪里？", "東京の図書館はどこにありますか。", "Где находится библиотека?",
    "أين تقع المكتبة؟", "👍🎉👩‍👩‍👧🇩🇪", "Zürich, Straße, ÅNGSTRÖM", "ÉCOLE École école",
    "e\u0301cole n\u0303 a\u030a\u0323", "Z\u0351\u036b\u0343a\u0363\u0348l\u0351g\u0325o\u0352",
    "ﬁne ｆｕｌｌ ² Ⅻ", "zero\u200bwidth\u00adsoft\u00a0hard", "nul\x00bell\x07",
    "http://a.b/c?d=e&f#g", "def f(x):\n    return x ** 2  # power",
    '{"key": ["value", 1.5e-3, null]}', "12,345.678 -9 1e10",
    "UPPER lower MiXeD", "don't can't we'll", "한국어 문장도 하나 있습니다.",
)  # fmt: skip


def corpus() -> list[str]:
    """Return what the tokenizers learn from: English articles and a little of other scripts."""
    with ARTICLES.open(encoding="utf-8") as file:
        return [row["text"] for row in csv.DictReader(file)] + [FOREIGN] * 3


def prose(words: int, seed: int) -> str:
    """Return so many English words in an order of their own."""
    known = " ".join(corpus()[:-3]).split()
    rng = random.Random(seed)
    return " ".join(rng.choice(known) for _ in range(words))


def sixty(longest: int) -> list[str]:
    """Return sixty texts of one token and more; the last three have up to `longest` words."""
    lengths = [2, 3, 4, 6, 8, 9, 12, 14, 16, 20, 25, 28, 33, 40, 50, 60]
    short = [*ODD, *(prose(n, n) for n in lengths)]
    long = [prose(n, n) for n in (longest // 4, longest // 2 + 5, longest + 1)]
    assert len(short) == 57
    return [*short, *long]
