"""Recognize refusals in English and Chinese by their form, not by single words.

"No", "The patient is unable to walk", "I cannot see any fracture" and "Sorry, we're closed" (the text of a sign) are answers.
The forms come from VLMEvalKit's list of refusals and from the refusals of the model families in ``workers/adapters``.
"""

import re

_CANNOT = (
    r"(?:can(?:no|')t|can not|could(?: not|n't)|won't|will not|must decline"
    r"|do(?: not|n't) have (?:the )?(?:ability|capability|access)"
    r"|(?:am|'m|are|is) (?:currently |not yet )?(?:unable|not able|not (?:qualified|permitted|allowed|authorized|comfortable)))"
)
_WHICH = "(?:(?:the|this|that|these|those|your|an?|any|attached|provided|uploaded|actual|real|specific) )*"
_IMAGE = _WHICH + r"(?:images?|pictures?|photos?|photographs?|attachments?|files?)\b"
_PERSON = _WHICH + r"(?:people|persons?|individuals?|man|woman|identity|identities|who|anyone)\b"
_WORK = (
    r"(?:to )?(?:directly |actually |currently |definitively |accurately )*"
    rf"(?:(?:see|view|access|open|display|process|analy[sz]e|interpret|describe|read) {_IMAGE}|(?:identify|recogni[sz]e) {_PERSON}"
    r"|(?:assist|help|comply)\b|(?:answer|fulfill?|complete|respond to) (?:the|this|that|your)\b"
    r"|(?:provide|give|offer|make) (?!any evidence)|(?:determine|tell)\b(?! (?:any|apart))|process this)"
)
_LEAD = r"(?:(?:unfortunately|apologies|well|hello|hi|oh)[,.!]? +)?"
_SORRY = r"(?:(?:i am|i'm) (?:\w+ )?sorry|sorry|my apologies|i (?:sincerely )?apologi[sz]e(?: for [\w ]{1,40})?)"

_AT_START = re.compile(
    rf"{_LEAD}(?:{_SORRY}[,.!;:]? *(?:but +)?(?:i\b(?!'m sure)|as an? |without |that i\b"
    r"|no image|there is no|this (?:request|image)\b)"
    rf"|(?:i am|i'm) (?:\w+ )?sorry[.!]?\Z"
    rf"|(?:as|being) an? (?:ai|artificial|(?:large |multimodal |text-based |vision[- ])*(?:language )?(?:ai|model|assistant))\b"
    r"|(?:i am|i'm) (?:just |only )?an? (?:ai|(?:large )?language model|text-based)\b"
    rf"|i ?{_CANNOT} {_WORK}"
    r"|i (?:do not|don't) (?:currently )?have (?:direct )?access to\b"
    r"|(?:unable|not able) to (?:answer|assist|help|provide|process|determine|view|access|see the image)\b"
    r"|(?:cannot|can't) (?:determine the answer|process|assist|answer)\b"
    r"|(?:there (?:is|was) |i (?:see|have|received) )?no (?:image|picture|photo)s? (?:was |is |were |are |has been |have been )?"
    r"(?:provided|attached|uploaded|available|included)"
    rf"|i (?:do not|don't|did not|didn't) (?:see|have|receive) (?:an|any|the) (?:image|picture|photo|attachment)s?\b(?! of)"
    rf"|(?:please|could you|can you)(?: please)? (?:provide|upload|share|attach|send) {_IMAGE})",
    re.IGNORECASE,
)
_ANYWHERE = re.compile(
    rf"(?:\A|[.!?;\n,] *(?:and |but )?)i ?{_CANNOT} (?:to )?(?:assist|help) (?:you )?with (?:that|this|your|images|identifying)\b"
    r"|\bas an ai (?:language )?(?:model|assistant)\b|\bwithout (?:the|an) (?:actual )?image (?:provided|attached)\b",
    re.IGNORECASE,
)
_SEE = "(?:直接)?(?:查看|看到|看见|识别|访问|打开|处理|分析|读取)"
_CHINESE_AT_START = re.compile(
    r"(?:非常|很|十分|真的)?(?:抱歉|对不起|不好意思)[,。!.\s]*(?:但是?)?(?:我|作为|无法|不能|由于|这|您|你|该|图[片像])"
    r"|作为(?:一个|一名|一款)?(?:AI|人工智能|(?:大型?)?语言模型|大模型|多模态)"
    r"|我(?:只)?是(?:一个|一名|一款)?(?:AI|人工智能|(?:大型?)?语言模型)"
    rf"|我?(?:目前|暂时)?(?:无法|不能|没办法|没法){_SEE}(?:您|你)?(?:提供的|上传的|发送的)?(?:这张|该|此|任何)?(?:图|照片|文件)"
    r"|我?(?:目前|暂时)?(?:无法|不能|没办法|没法)(?:回答|提供|协助|帮助|完成|满足|给出)"
    r"|我(?:目前|暂时)?(?:无法|不能|没办法|没法)(?:判断|确定|直接|根据)(?![^。]*但)"
    r"|我(?:看不到|没有看到|没看到|没有收到)(?:您|你)?(?:提供的|上传的)?(?:这张|该|任何)?(?:图|照片)"
    r"|(?:您|你)?(?:没有|未|并未)(?:提供|上传|附上)(?:任何)?(?:图|照片)"
    r"|请(?:您)?(?:提供|上传|重新上传)(?:一张|相关|清晰的)*(?:图|照片)",
    re.IGNORECASE,
)


def is_refusal(text: str) -> bool:
    """Return whether the text declines to answer: it begins with a refusal, or contains a form that is always a refusal."""
    text = re.sub(r"[*_\"“”]", "", text).strip().replace("’", "'").replace("，", ",")
    text = re.sub(r"\s+", " ", text)
    return bool(_AT_START.match(text) or _ANYWHERE.search(text) or _CHINESE_AT_START.match(text))
