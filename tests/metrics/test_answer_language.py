"""Whose language an answer is: code, LaTeX, addresses and markup say nothing, and a doubt is said."""

import pytest

from sae_posttrain.metrics.answer_language import answer_language, language_of_writing

CANDIDATES = ("en", "zh", "ja", "ko", "ru")
F = "```"

CHINESE = {
    "Python in a fence": f"快速排序：\n\n{F}python\ndef sort(items):\n    return sorted(items)\n{F}\n平均很快。",
    "shell in a fence": f"先安装依赖：\n\n{F}bash\npip install -r requirements.txt\npython -m app --port 80\n{F}",
    "SQL without a fence": "查询用户：\n\nSELECT id, name FROM users WHERE age > 18 ORDER BY id;\n\n返回前十个。",
    "YAML without a fence": "配置\n\nname: demo\nservices:\n  web:\n    image: nginx\n    restart: always\n\n重启。",
    "a diff": "修改如下：\n\n--- a/app.py\n+++ b/app.py\n-def hello(name):\n+def hello(name: str):\n\n这样就好。",
    "a table": "| 参数 | 类型 | 说明 |\n|---|---|---|\n| learning_rate | float | 学习率 |\n| batch | int | 批大小 |",
    "a stack trace": 'Traceback (most recent call last):\n  File "main.py", line 3, in divide\n    return a / b\n'
    "ZeroDivisionError: division by zero\n\n原因是除数为零，请检查参数。",
    "HTML": '结构：\n<html lang="en"><head><title>My first web page</title></head>\n<body><p>This is a short text</p>\n'
    "用浏览器打开就能看到。",
    "LaTeX without delimiters": r"根据定理，\begin{align} a^2 + b^2 = c^2 \end{align} 因此 \boxed{\frac{3}{5}}。",
    "a formula": "设 f(x) = x^2 + 2x + 1，则 f'(x) = 2x + 2，令 f'(x) = 0 得 x = -1，所以 min f(x) = 0。",
    "addresses": "参考链接：\n1. https://docs.python.org/3/library/asyncio.html\n2. https://pytorch.org/docs/stable/nn.html",
    "English names": "主演有 Leonardo DiCaprio、Kate Winslet、Billy Zane 和 Kathy Bates，导演是 James Cameron。",
    "English terms in a list": "1. Data collection（数据收集）\n2. Feature engineering（特征工程）\n3. Train（训练）",
    "many terms": "我用 PyTorch 和 Hugging Face Transformers 做 fine-tuning，加 gradient checkpointing 省显存。",
    "a title": '论文 "Attention Is All You Need" 提出了 Transformer，之后有 BERT 和 GPT。',
    "commands behind prompts": '$ git clone https://a.org/repo.git\n$ git commit -m "Add a thing to the repository"\n'
    "推送之后创建合并请求。",
    "JSON": '{"title": "用户登录", "fields": [{"name": "username", "label": "用户名"}]}',
    "JSON with English sentences": '返回如下：\n[{"name": "A", "about": "A text on the user in words"}]\n就这样。',
    "English sentences in a JSON fence": f'返回：\n{F}json\n{{"status": "the request was a success", "next": "the '
    f'first item in the list"}}\n{F}\n就这样。',
    "a log in a fence": f"日志如下：\n{F}\nStarting the server on a port\nThe file was not found, using defaults\n"
    f"{F}\n可以忽略。",
    "a log without a fence": "日志：\n2026-01-01 12:00:00 INFO Starting the server on 80\n2026-01-01 12:00:01 WARN "
    "The file was not found, using the defaults\n可以忽略。",
    "Python with comments and without a fence": "代码：\n\nfor item in items:\n    # go through the items and print "
    "every one\n    print(f'the item is {item} and that is all')\n\n就这样。",
    "an indented command": "运行：\n\n    pip install numpy pandas matplotlib scikit-learn\n\n就这样。",
    "a fence labelled text": f"{F}text\n这是一段中文的说明，请替换为自己的内容。\n{F}",
    "thinking": f"<think>\n用户想知道如何排序。\n</think>\n\n用 sorted 即可：\n{F}python\nsorted(items)\n{F}",
    "only a number": "答案是 42。",
}
OTHERS = [
    ("ja", f"以下を実行してください。\n\n{F}bash\nsudo apt-get update && sudo apt-get install -y libssl-dev\n{F}"),
    ("ja", "環境設定\n実行方法\n1. サーバーを起動します。"),
    ("ja", "| 項目 | 説明 |\n|---|---|\n| host | ホスト名 |\n| port | ポート番号 |"),
    ("ko", "다음 명령을 실행하세요.\n\nkubectl apply -f deployment.yaml\nkubectl get pods\n\n로그를 확인합니다."),
    ("ko", "Python에서 list comprehension은 [x for x in range(10) if x % 2 == 0]처럼 씁니다."),
    ("ru", "Команда docker run --rm -it -v $(pwd):/app python:3.11 bash запускает контейнер."),
    (
        "en",
        f'A list of cities:\n\n{F}python\nprint(["北京", "上海", "广州", "深圳", "杭州", "成都"])  # 打印城市列表\n{F}',
    ),
    ("en", "The proverb 千里之行，始于足下 means that a journey of a thousand miles begins with a single step."),
    ("en", "She wrote to Дмитрий in Москва about the book Война и мир, which she had read twice."),
    ("en", "The energy is ΔE = γδ, where γ is the factor."),
    ("en", "Paris"),
    ("en", "Yes, that is right."),
    ("en", f"{F}markdown\n# Report\n\nThis report is about the word 报告, and it is short.\n{F}"),
    ("en", "- Apples\n- Bananas\n- Oranges"),
]
UNKNOWN = {
    "only code": f"{F}python\ndef add(a, b):\n    return a + b\n{F}",
    "only SQL": "SELECT * FROM users WHERE id = 1;",
    "only numbers": "3.14, 2.71",
    "nothing": "",
    "only a formula": r"$$\int_0^\infty e^{-x^2} dx = \frac{\sqrt{\pi}}{2}$$",
    "only an address": "https://example.org/a/b/c",
    "a translation": "中文：今天天气很好，我们去公园散步吧，然后再去吃饭。\n"
    "English: The weather is very nice today, let us go for a walk in the park and then eat.",
    "references": "参考文献：\n[1] Vaswani A, Shazeer N, Parmar N, et al. Attention is all you need. NeurIPS, 2017.\n"
    "[2] Devlin J, Chang M W, et al. Pre-training of deep bidirectional transformers. 2019.\n\n以上是相关论文。",
    "a table in English": "| Command | Description |\n|---|---|\n| git add | Add files to the index |\n"
    "| git commit | Record changes to the repository |\n\n以上是常用的命令。",
    "thinking in another language": "<think>\nThe user asks how to sort. I should answer in Chinese.\n</think>\n\n"
    "可以用 sorted 函数对列表排序，它会返回一个新的列表。",
    "Chinese or Japanese": "東京",
    "a third script": "แมวเห็นบ้านหลังเล็กและร้องเพลง",
    "a heading above code": f"### Valid\n\n{F}js\n" + "const x = useMemo(() => compute(y), [y]);\n" * 4 + F,
}


@pytest.mark.parametrize("name", CHINESE)
def test_chinese_around_what_is_not_chinese(name: str) -> None:
    assert answer_language(CHINESE[name], CANDIDATES).language == "zh"


@pytest.mark.parametrize(("code", "answer"), OTHERS)
def test_other_languages(code: str, answer: str) -> None:
    assert answer_language(answer, CANDIDATES).language == code


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_tells_nothing_is_unknown(name: str) -> None:
    assert answer_language(UNKNOWN[name], CANDIDATES).language is None


@pytest.mark.parametrize(
    ("writing", "candidates", "code"),
    [
        ("Latn", ("en", "fr"), None),
        ("Latn", ("en", "sr"), None),  # Serbian is written in both
        ("Latn", ("zh", "sr"), "sr"),
        ("Cyrl", ("ru", "sr"), None),
        ("Cyrl", ("ru", "uz", "en"), None),
        ("Latn", ("zh", "ja"), None),
        ("Hani", ("zh", "ja"), "zh"),
        ("Hani", ("en", "ja"), None),  # long Han without kana is not Japanese
        ("Hani", ("zh", "yue"), None),
        ("Hani?", ("zh", "ja"), None),
        ("Hani?", ("en", "ja"), "ja"),
        ("Jpan", ("en", "zh"), None),
        ("Thai", ("en", "zh"), None),
        (None, ("en",), None),
    ],
)
def test_a_writing_of_several_candidates_tells_none(writing: str, candidates: tuple[str, ...], code: str) -> None:
    assert language_of_writing(writing, candidates) == code


def test_forms_that_one_of_the_two_does_not_write() -> None:
    """Without kana, 这 is Chinese and 検 Japanese."""
    assert [answer_language(text, CANDIDATES).language for text in ("这里", "検索", "中国")] == ["zh", "ja", None]


def test_the_share_says_how_clear_it_was() -> None:
    plain = answer_language("Кошка видит дом и поёт.", CANDIDATES)
    mixed = answer_language("Кошка видит маленький дом и поёт. The cat sees the house.", CANDIDATES)
    assert plain.writing == mixed.writing == "Cyrl"
    assert plain.share == 1.0
    assert 0.45 < mixed.share < 0.6
    assert mixed.words > plain.words


def test_an_unknown_candidate() -> None:
    with pytest.raises(ValueError, match="xx"):
        answer_language("Hello there.", ["en", "xx"])
