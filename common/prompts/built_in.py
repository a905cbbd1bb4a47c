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

TEMPLATES: Final = {
    # VLMEvalKit: vlmeval/dataset/image_mcq.py for multiple choice; image_vqa.py (number and short text) and image_yorn.py else.
    # The line of a hint before other questions is ours.
    DEFAULT: (
        "{% if kind == 'multiple_choice' and options %}" + _VLMEVALKIT_CHOICE + "{% else %}"
        "{% if hint %}Hint: {{ hint }}\n{% endif %}{{ question }}"
        "{% if kind in ('short_text', 'number') %}\nAnswer the question using a single word or phrase.{% endif %}"
        "{% endif %}"
    ),
    # The question as written. Hint and options are not shown.
    "question_only": "{{ question }}",
    # VLMEvalKit's ImageMCQDataset.build_prompt for each row, of any kind (vlmeval/dataset/image_mcq.py).
    "vlmeval_mcq": _VLMEVALKIT_CHOICE,
    # lmms-eval's format "default": lmms_eval/tasks/scienceqa (options), and mme, textvqa (one word). Free text: the question alone.
    "lmms_eval": (
        "{% if hint %}Context: {{ hint }}\n{% endif %}{{ question }}"
        "{% if options %}{% for letter, text in options.items() %}\n{{ letter }}. {{ text }}{% endfor %}"
        "\nAnswer with the option's letter from the given choices directly."
        "{% elif kind != 'free_text' %}\nAnswer the question using a single word or phrase.{% endif %}"
    ),
}
