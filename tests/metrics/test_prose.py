"""What of a text is prose: every row says what is left when code, LaTeX, addresses and markup are spaces."""

import random

import pytest

from sae_posttrain.metrics import blank


def left(text: str, **options: bool) -> str:
    blanked = blank(text, **options)
    assert len(blanked) == len(text)
    assert all(kept in (" ", char) for kept, char in zip(blanked, text, strict=True))
    assert blanked.count("\n") == text.count("\n")
    return " ".join(blanked.split())


@pytest.mark.parametrize(
    ("text", "prose"),
    [
        ("Run\n```python\nx = '你好'  # 例\n```\nend", "Run end"),
        ("Run\n~~~js {1,3} App.js\nalert(1)\n~~~\nend", "Run end"),
        ("- item\n  ```sh\n  pip install x\n  ```\n- next", "- item - next"),
        ("> ```sh\n> pip install x\n> ```\n> next", "> > next"),
        ("1. ```sh\n   ls\n   ```\n2. next", "1. 2. next"),
        ("Run this: ```sh\nls -l```\nend", "Run this: end"),
        ("```markdown\n# Report\n\n报告。\n```", "# Report 报告。"),
        ("```text\n报告。\n```", "报告。"),
        ("```\n报告很短。\n```", "报告很短。"),
        ("```\nprint('你好')\nx = 1\n```", ""),
        ("```\nsrc/\n├── 文档\n└── 代码\n```", ""),
        ('```json\n{"title": "물리학", "n": [1, "전기\\n式"]}\n```', "물리학 전기 式"),
        ('```\n{"title": "물리학"}\n```', "물리학"),
        ('```json\n{"제목": "물리학"}\n```', "제목 물리학"),
    ],
)
def test_fences(text: str, prose: str) -> None:
    assert left(text) == prose


@pytest.mark.parametrize(
    ("text", "prose"),
    [
        ("````python\n'''\n```\nls\n```\n'''\n````\nend", "end"),
        ("```markdown\n# 题\n```python\nx = '好'\n```\n后文\n```\nend", "# 题 后文 end"),
        ("````md\n```sh\nls 好\n```\n后文\n````\nend", "后文 end"),
        ("~~~md\n```sh\nls 好\n```\n后文\n~~~\nend", "后文 end"),
        ("```sh\ngit commit\nThen open the page.\n```python\nx = 1\n```\nend", "Then open the page. end"),
        ("```bash\npip install x\n\nThen 重新启动服务，等待几分钟。\nend", "Then 重新启动服务，等待几分钟。 end"),
        (
            "```bash\npip install x\nПотом перезапустите службу и подождите.\nend",
            "Потом перезапустите службу и подождите. end",
        ),
        ("```python\nimport x\n\n# 计算\ndef f():\n    '''返回 你好。'''\n    return '你好'\n\n\nf('好')", ""),
        ("```python\nprint('你好')", ""),
        ("```bash\npip install x\n\nThen 重新启动服务，等待", "Then 重新启动服务，等待"),
        ("```bash\npip install x\n\nThen restart the service and wait", "Then restart the service and wait"),
        ("```sql\nSELECT a FROM b WHERE c\nORDER BY d DESC LIMIT e", ""),
        ("```dockerfile\nFROM python\nRUN apt update && apt install curl\nCMD run now with all", ""),
        ("```markdown\n报告 never closed", "报告 never closed"),
        ('```json\n{"title": "물리', ""),
        ("one ``` two 你好 three", "one ``` two 你好 three"),
    ],
)
def test_nested_fences_and_fences_that_are_never_closed(text: str, prose: str) -> None:
    assert left(text) == prose


@pytest.mark.parametrize(
    ("text", "prose"),
    [
        ("Call `打印()`, ``a`b`` and ```c``` now", "Call , and now"),
        ("it costs 5` and 你好 then", "it costs 5` and 你好 then"),
        ("<code>打印()</code> and <pre class='x'>\n好\n</pre> end", "and end"),
        ("<pre><code>好</code></pre> end <kbd>Ctrl</kbd>", "end"),
        ("<code>好 never closed", "好 never closed"),
        ("a <code> 好 and later <code>x</code> b", "a 好 and later b"),
        ('<a href="/x" title="题">链接</a> <br/> <Foo bar={{a: 1}} {...x}>', "链接 <Foo bar= >"),
        ("<think>\n好的\n</think>\nok", "好的 ok"),
        ("if a < b и c > d", "if a < b и c > d"),
        ("<!-- 注释 --> a {/* 注释 */} b {* ../x.py *} c {% if x %} d", "a b c d"),
        ("Hello {name}, {{ user.name }} ${x} {#useref}", "Hello ,"),
        ('{"status": "ok", "说明": "好"} {你好}', '{"status": "ok", "说明": "好"} {你好}'),
        ("a &nbsp;&#1234; b & c", "a b & c"),
    ],
)
def test_inline_code_and_markup(text: str, prose: str) -> None:
    assert left(text) == prose


@pytest.mark.parametrize(
    ("text", "prose"),
    [
        (r"so \( \alpha + \beta \) and \[ x^2 \] hold", "so and hold"),
        (r"so $\Delta\varphi$ and $x$ and $$\int f\, dx$$ hold", "so and and hold"),
        (r"因此 \begin{align} a &= b \\[2pt] c &= d \end{align} 得 \boxed{\frac{3}{5}}。", "因此 得 。"),
        (r"\frac{a}{b} or \sqrt[3]{x} or \mathbb{R}", "or or"),
        (r"$v = 5 \text{ если } x > 0$", "если"),
        (r"$\frac{距离}{时间}$ and $Ш$ and $v_{ср}$", "距离 时间 and and ср"),
        (r"\textbf{le chat} \section{引言}", "le chat 引言"),
        ("from $5 to $10, oder 5$ und 10$", "from $5 to $10, oder 5$ und 10$"),
        ("a ($5 за le chat voit) for 6$", "a ($5 за le chat voit) for 6$"),
        (r"\[le chat voit\] is escaped", r"\[le chat voit\] is escaped"),
        (r"\begin{align} 好 never closed", "好 never closed"),
        ("The g_{μν} and x^{2}", "The g and x"),
    ],
)
def test_latex(text: str, prose: str) -> None:
    assert left(text) == prose


@pytest.mark.parametrize(
    ("text", "prose"),
    [
        ("See https://example.org/a?b=c#d or www.example.org (there)", "See or (there)"),
        ("visit https://example.com谢谢", "visit 谢谢"),
        ("visit https://example.com/a。谢谢", "visit 。谢谢"),
        ("www.example.com/路径?键=值 ok", "ok"),
        ("See https://example.org/guide/然后按照步骤安装，最后重启。", "See 然后按照步骤安装，最后重启。"),
        ("See https://example.org/guide/重启，然后", "See 重启，然后"),
        ("See https://example.org/page.html重启", "See 重启"),
        ("See https://zh.wikipedia.org/wiki/中华人民共和国国家主席 for more", "See for more"),
        ("See https://example.org/wiki/C语言 for more", "See for more"),
        ("See https://ru.wikipedia.org/wiki/Россия_(страна) for more", "See for more"),
        ("See https://example.org/page.htmlЗатем", "See Затем"),
        ("See https://fr.wikipedia.org/wiki/Café", "See"),
        ("write to some.one@example.org now", "write to now"),
        ("[useRef](/reference/react/useRef) and ![alt](x.png 'title')", "[useRef]( ) and ![alt]( 'title')"),
        ("[記事](#はじめに) [你好](hello) [hello](你好)", "[記事]( ) [你好]( ) [hello](你好)"),
        ("[a][ref-1] text\n[ref-1]: /路径", "[a][ ] text [ref-1]:"),
    ],
)
def test_addresses_and_targets(text: str, prose: str) -> None:
    assert left(text) == prose


def test_each_kind_can_be_kept() -> None:
    text = "`代码` https://x.org/路径 <b title='题'> \n```sh\n代码\n```"
    assert left(text) == ""
    assert left(text, code=False) == "`代码` ```sh 代码 ```"
    assert left(text, urls=False) == "https://x.org/路径"
    assert left(text, markup=False) == "<b title='题'>"
    assert blank("Grüße aus Bonn", terms=["bonn", ""]) == "Grüße aus     "


UNITS = [
    *["`", "```\n", "```py\n", "````\n```\n", "<a ", "<a b='", "<code>", "<!--", "&a", "{", "{a", "{{", "{*", "\n"],
    *["$", "$a ", "\\(", "\\begin{a}", "\\boxed{", "_{", "\\", "](", "](a(", "](/a", "[a]: ", '"'],
    *["http://", "a.", "a@", "://a/好a", "http://a/好，", "/好", "好，"],
]


@pytest.mark.timeout(60)  # a search that starts anew at each character takes hours
@pytest.mark.parametrize("unit", UNITS)
def test_time_is_linear(unit: str) -> None:
    text = "и http://a/" + unit * (200_000 // len(unit))
    assert len(blank(text)) == len(text)


def test_random_texts_keep_their_length_and_their_lines() -> None:
    pieces = [
        "```",
        "~~~",
        "`",
        "$",
        "$$",
        "\\(",
        "\\)",
        "\\begin{a}",
        "\\end{a}",
        "\\text{",
        "<",
        ">",
        "<code>",
        "</code>",
        "{",
        "}",
        "[",
        "](",
        ")",
        "http://a/b",
        "好",
        "word",
    ]
    pieces += [".", " ", "\n", "\t"]
    rng = random.Random(0)
    for _ in range(2000):
        left("".join(rng.choices(pieces, k=rng.randint(0, 40))))
