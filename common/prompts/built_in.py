"""The built-in templates, by name. ``docs/prompts.md`` shows the text of each kind of question.

Each wording is that of a public evaluation kit, so that scores compare with published scores.
"""

from typing import Final

DEFAULT: Final = "default"

_VLMEVALKIT_CHOICE: Final = (
    "{% if hint %}Hint: {{ hint }}\n{% endif %}Question: {{ question }}\n"
    "{% if options %}Options:\n{% for letter, text in options.items() %}{{ letter }}. {{ text }}\n{% endfor %}"
    "Please select the correct answer from the options above. \n{% endif %}"
)

# The wording of LLaVA in VLMEvalKit.
_LLAVA_CHOICE: Final = (
    "{% if hint %}{{ hint }}\n{% endif %}{{ question }}"
    "{% for letter, text in options.items() %}\n{{ letter }}. {{ text }}{% endfor %}"
    "{% if options %}\nAnswer with the option's letter from the given choices directly."
    "{% else %}\nAnswer the question directly.{% endif %}"
)

TEMPLATES: Final = {
    # VLMEvalKit: vlmeval/dataset/image_mcq.py for multiple choice, image_vqa.py for number and short text,
    # image_yorn.py for the other kinds.
    # VLMEvalKit shows a hint only in multiple-choice questions. We also show it before the other questions.
    DEFAULT: (
        "{% if kind == 'multiple_choice' and options %}" + _VLMEVALKIT_CHOICE + "{% else %}"
        "{% if hint %}Hint: {{ hint }}\n{% endif %}{{ question }}"
        "{% if kind in ('short_text', 'number') %}\nAnswer the question using a single word or phrase.{% endif %}"
        "{% endif %}"
    ),
    # The question as written. Hint and options are not shown.
    "question_only": "{{ question }}",
    # VLMEvalKit's ImageMCQDataset.build_prompt (vlmeval/dataset/image_mcq.py), applied to rows of every kind.
    "vlmeval_mcq": _VLMEVALKIT_CHOICE,
    # VLMEvalKit e8e78f0: vlmeval/vlm/qwen2_vl/prompt.py, in English. It ends a Chinese question in Chinese.
    "qwen2_vl": (
        "{% if kind == 'multiple_choice' and options %}{% if hint %}Hint: {{ hint }}\n{% endif %}Question: {{ question }}\n"
        "Options:\n{% for letter, text in options.items() %}{{ letter }}. {{ text }}\n{% endfor %}"
        "Please select the correct answer from the options above."
        "{% else %}{{ question }}{% if kind == 'yes_no' %} Please answer yes or no."
        "{% elif kind in ('short_text', 'number') %}\nPlease try to answer the question with short words or phrases if possible."
        "{% endif %}{% endif %}"
    ),
    # VLMEvalKit e8e78f0: LLaVA.build_prompt in vlmeval/vlm/llava/llava.py, in English.
    "llava": _LLAVA_CHOICE,
    # lmms-eval's format "default": lmms_eval/tasks/scienceqa for options, lmms_eval/tasks/mme and textvqa for answers of one word.
    # A free-text row gets the question alone.
    "lmms_eval": (
        "{% if hint %}Context: {{ hint }}\n{% endif %}{{ question }}"
        "{% if options %}{% for letter, text in options.items() %}\n{{ letter }}. {{ text }}{% endfor %}"
        "\nAnswer with the option's letter from the given choices directly."
        "{% elif kind != 'free_text' %}\nAnswer the question using a single word or phrase.{% endif %}"
    ),
}
