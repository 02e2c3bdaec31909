"""The words of the miniature world. Each concept is one token in each of the four languages."""

PAD, UNKNOWN, END, USER, ASSISTANT = SPECIAL = ("<|pad|>", "<|unknown|>", "<|end|>", "<|user|>", "<|assistant|>")
LANGUAGES = ("en", "zh", "ru", "ko")

# Things are masculine and inanimate in Russian, so the nominative equals the accusative and adjectives need no change.
# Korean verbs are in the polite form, which is the same in statements and questions.
_TABLE = """
being   dog       狗     собака      개
being   cat       猫     кошка       고양이
being   horse     马     лошадь      말
being   teacher   老师   учитель     선생님
being   doctor    医生   врач        의사
being   child     孩子   ребёнок     아이
thing   bread     面包   хлеб        빵
thing   tea       茶     чай         차
thing   cheese    奶酪   сыр         치즈
thing   flower    花     цветок      꽃
thing   stone     石头   камень      돌
thing   key       钥匙   ключ        열쇠
thing   phone     电话   телефон     전화
thing   computer  电脑   компьютер   컴퓨터
thing   film      电影   фильм       영화
thing   coffee    咖啡   кофе        커피
quality new       新     новый       새로운
quality old       旧     старый      오래된
quality big       大     большой     큰
quality small     小     маленький   작은
deed    sees      看见   видит       봐요
deed    buys      买     покупает    사요
deed    wants     想要   хочет       원해요
deed    finds     找到   находит     찾아요
deed    loves     喜欢   любит       좋아해요
place   garden    花园   саду        정원
place   city      城市   городе      도시
place   school    学校   школе       학교
place   forest    森林   лесу        숲
time    today     今天   сегодня     오늘
time    often     常常   часто       자주
time    always    总是   всегда      항상
speech  and       和     и           그리고
speech  then      然后   потом       그다음
speech  who       谁     кто         누가
speech  says      说     говорит     말해요
speech  story     故事   рассказ     이야기
speech  list      清单   список      목록
speech  song      歌     песня       노래
speech  again     再     снова       다시
"""

_ROWS = [line.split() for line in _TABLE.strip().splitlines()]

# concept (its English word) -> language -> word
WORDS: dict[str, dict[str, str]] = {row[1]: dict(zip(LANGUAGES, row[1:], strict=True)) for row in _ROWS}

# role -> concepts
CONCEPTS: dict[str, tuple[str, ...]] = {
    role: tuple(row[1] for row in _ROWS if row[0] == role) for role in dict.fromkeys(row[0] for row in _ROWS)
}

PUNCTUATION: dict[str, dict[str, str]] = {
    language: dict(zip(".,:?", "。，：？" if language == "zh" else ".,:?", strict=True)) for language in LANGUAGES
}
NUMBERS = tuple(f" {digit}" for digit in range(1, 6))
PARTICLES = {"topic": ("은", "는"), "object": ("을", "를"), "place": ("에서", "에서")}
GRAMMAR_WORDS = (" the", " in", "在", " в")


def symbol(concept: str, language: str) -> str:
    """The token of a concept. In languages with spaces between words, it begins with the space."""
    word = WORDS[concept][language]
    return word if language == "zh" else f" {word}"


def symbols() -> list[str]:
    """All tokens of the world except the special ones, in a fixed order."""
    words = [symbol(concept, language) for language in LANGUAGES for concept in WORDS]
    marks = [mark for language in ("en", "zh") for mark in PUNCTUATION[language].values()]
    particles = [particle for pair in PARTICLES.values() for particle in pair]
    return list(dict.fromkeys([*words, *GRAMMAR_WORDS, *particles, *marks, *NUMBERS]))
