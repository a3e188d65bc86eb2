"""Chat templates written for these tests, each with the features that one family's published template relies on."""

QWEN3 = """
{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0].role == 'system' %}{{- messages[0].content ~ '\\n\\n' }}{%- endif %}
    {{- '# Functions\\n<tools>' }}
    {%- for tool in tools %}{{- '\\n' ~ (tool | tojson) }}{%- endfor %}
    {{- '\\n</tools><|im_end|>\\n' }}
{%- elif messages[0].role == 'system' %}
    {{- '<|im_start|>system\\n' ~ messages[0].content ~ '<|im_end|>\\n' }}
{%- endif %}
{%- set ns = namespace(asks=0, asked=false) %}
{%- for message in messages[::-1] %}
    {%- if message.role == 'user' and not ns.asked %}
        {%- set ns.asked = true %}{%- set ns.asks = messages | length - 1 - loop.index0 %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- set content = message.content if message.content is string else '' %}
    {%- if message.role == 'user' or (message.role == 'system' and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>\\n' }}
    {%- elif message.role == 'assistant' %}
        {%- set thought = '' %}
        {%- if message.reasoning_content is string %}
            {%- set thought = message.reasoning_content %}
        {%- elif '</think>' in content %}
            {%- set thought = content.split('</think>')[0].split('<think>')[-1].strip('\\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {{- '<|im_start|>assistant\\n' }}
        {%- if loop.index0 > ns.asks and (loop.last or thought) %}
            {{- '<think>\\n' + thought.strip('\\n') + '\\n</think>\\n\\n' }}
        {%- endif %}
        {{- content }}
        {%- for call in message.tool_calls or [] %}
            {%- if call.function %}{%- set call = call.function %}{%- endif %}
            {{- '\\n<tool_call>\\n{"name": "' ~ call.name ~ '", "arguments": ' }}
            {{- call.arguments if call.arguments is string else call.arguments | tojson }}
            {{- '}\\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- elif message.role == 'tool' %}
        {%- if loop.first or messages[loop.index0 - 1].role != 'tool' %}{{- '<|im_start|>user' }}{%- endif %}
        {{- '\\n<tool_response>\\n' ~ content ~ '\\n</tool_response>' }}
        {%- if loop.last or messages[loop.index0 + 1].role != 'tool' %}{{- '<|im_end|>\\n' }}{%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}
{%- endif %}"""

HERMES = """
{%- macro kind(schema) -%}
    {%- if schema.type == 'array' -%}list[{{ kind(schema['items']) }}]
    {%- elif schema.enum is defined -%}one of {{ schema.enum | join(', ') }}
    {%- else -%}{{ schema.type }}{%- endif -%}
{%- endmacro -%}
{{ bos_token }}
{%- if tools %}
<|im_start|>system
Call functions within <tool_call> tags.
{% for tool in tools %}
{{ tool.function.name }}({% for name, schema in tool.function.parameters.properties.items() -%}
{{ name }}: {{ kind(schema) }}{{ ', ' if not loop.last }}
{%- endfor %}): {{ tool.function.description | trim }} {{ tool | tojson(indent=2) }}
{% endfor %}
<|im_end|>
{%- endif %}
{% for message in messages %}
<|im_start|>{{ message.role }}
{% if message.role == 'tool' %}
<tool_response name="{{ message.name }}" id="{{ message.tool_call_id }}">{{ message.content }}</tool_response>
{% elif message.tool_calls is defined %}
{% for call in message.tool_calls %}
<tool_call>{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}</tool_call>
{% endfor %}
{% else %}
{{ message.content }}
{% endif %}
<|im_end|>
{% endfor %}
{% if add_generation_prompt %}
<|im_start|>assistant
{% endif %}"""

# Calls' arguments are concatenated as text, and a message without content must have None.
DEEPSEEK = """
{%- set ns = namespace(system='', tool=false) -%}
{%- for message in messages if message['role'] == 'system' -%}
    {%- set ns.system = ns.system + ('\\n\\n' if ns.system else '') + message['content'] -%}
{%- endfor -%}
{{ bos_token }}{{ ns.system }}
{%- for message in messages -%}
    {%- if message['role'] == 'user' -%}{{ '<\uff5cUser\uff5c>' + message['content'] }}
    {%- elif message['role'] == 'assistant' and message['tool_calls'] is defined -%}
        {%- if message['content'] is none -%}{{ '<\uff5cAssistant\uff5c>' }}
        {%- else -%}{{ '<\uff5cAssistant\uff5c>' + message['content'] }}{%- endif -%}
        {{ '<\uff5ccalls\uff5c>' }}
        {%- for tool in message['tool_calls'] -%}
            {{ tool['type'] + '<\uff5csep\uff5c>' + tool['function']['name'] + '\\n```json\\n' }}
            {{- tool['function']['arguments'] + '\\n```' }}
        {%- endfor -%}{{ eos_token }}
    {%- elif message['role'] == 'assistant' -%}
        {%- set content = message['content'] -%}
        {%- if '</think>' in content -%}{%- set content = content.split('</think>')[-1] -%}{%- endif -%}
        {{ '<\uff5cAssistant\uff5c>' + content + eos_token }}
    {%- elif message['role'] == 'tool' -%}{{ '<\uff5coutput\uff5c>' + message['content'] }}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<\uff5cAssistant\uff5c>' }}{{ '<think>\\n' if thinking }}{%- endif -%}"""

KIMI = """
{%- macro written(content) -%}
    {%- if content is string -%}{{ content }}
    {%- elif content is not none -%}{%- for part in content -%}{{ part['text'] }}{%- endfor -%}{%- endif -%}
{%- endmacro -%}
{%- if tools -%}<|im_system|>tool_declare<|im_middle|>{{ tools | tojson(separators=(',', ':')) }}<|im_end|>{%- endif -%}
{%- for message in messages -%}
    {%- if loop.first and message.role != 'system' -%}<|im_system|>system<|im_middle|>Help.<|im_end|>{%- endif -%}
    {%- set name = message.get('name') or message.role -%}
    {{ {'user': '<|im_user|>', 'assistant': '<|im_assistant|>'}.get(message.role, '<|im_system|>') ~ name }}
    {{- '<|im_middle|>' }}
    {%- if message.role == 'tool' -%}## Return of {{ message.tool_call_id }}\n{{ written(message.content) }}
    {%- else -%}{{ written(message.content) }}{%- endif -%}
    {%- for call in message.get('tool_calls', []) -%}
        <|call|>{{ call['id'] }}<|argument|>
        {%- if call.function.arguments is string -%}{{ call.function.arguments }}
        {%- else -%}{{ call.function.arguments | tojson }}{%- endif -%}
    {%- endfor -%}<|im_end|>
{%- endfor -%}
{%- if add_generation_prompt -%}<|im_assistant|>assistant<|im_middle|>{%- endif -%}"""

LLAMA4_PYTHONIC = """
{{- bos_token }}
{%- if not date_string is defined %}{%- set date_string = strftime_now('%d %b %Y') %}{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- if messages[0]['content'] is string %}{%- set system = messages[0]['content'] | trim %}
    {%- else %}{%- set system = messages[0]['content'][0]['text'] | trim %}{%- endif %}
    {%- set messages = messages[1:] %}
{%- else %}{%- set system = '' %}{%- endif %}
{{- '<|header_start|>system<|header_end|>\\n\\n' ~ date_string ~ '\\n' }}
{%- for t in tools or [] %}{{- t | tojson(indent=4) ~ '\\n\\n' }}{%- endfor %}
{{- system ~ '<|eot|>' }}
{%- for message in messages %}
    {{- '<|header_start|>' ~ ('ipython' if message.role in ['tool', 'ipython'] else message.role) }}
    {{- '<|header_end|>\\n\\n' }}
    {%- if message.content is string %}{{- message.content | trim }}
    {%- else %}
        {%- for part in message.content %}{%- if part.type == 'text' %}{{- part.text }}{%- endif %}{%- endfor %}
    {%- endif %}
    {%- if 'tool_calls' in message and message.tool_calls | length > 0 %}
        {{- '[' }}
        {%- for call in message.tool_calls %}
            {{- call.function.name ~ '(' }}
            {%- for name, value in call.function.arguments | items %}
                {{- name ~ '=' ~ (value | tojson) }}{{- ', ' if not loop.last }}
            {%- endfor %}
            {{- ')' }}{{- ', ' if not loop.last }}
        {%- endfor %}
        {{- ']' }}
    {%- endif %}
    {{- '<|eot|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|header_start|>assistant<|header_end|>\\n\\n' }}{%- endif %}"""

LLAMA_JSON = """
{{- bos_token }}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|header_start|>' + message['role'] + '<|header_end|>\\n\\n' + message['content'] | trim + '<|eot|>' }}
    {%- elif 'tool_calls' in message %}
        {%- if not message.tool_calls | length == 1 %}{{- raise_exception('one call at a time') }}{%- endif %}
        {%- set call = message.tool_calls[0].function %}
        {{- '<|header_start|>assistant<|header_end|>\\n\\n{"name": "' + call.name + '", "parameters": ' }}
        {{- call.arguments | tojson }}{{- '}<|eot|>' }}
    {%- else %}
        {{- '<|header_start|>ipython<|header_end|>\\n\\n' }}
        {%- if message.content is mapping or message.content is iterable %}{{- message.content | tojson }}
        {%- else %}{{- message.content }}{%- endif %}
        {{- '<|eot|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|header_start|>assistant<|header_end|>\\n\\n' }}{%- endif %}"""

MISTRAL = """
{%- set system = messages[0].content if messages[0].role == 'system' else none %}
{%- set rest = messages[1:] if system is not none else messages %}
{%- set last = rest | selectattr('role', 'equalto', 'user') | list | last %}
{{- bos_token }}
{%- for message in rest %}
    {%- if message.role == 'user' %}
        {%- if tools is not none and message == last %}
            {{- '[AVAILABLE_TOOLS]' + tools | map(attribute='function') | list | tojson + '[/AVAILABLE_TOOLS]' }}
        {%- endif %}
        {{- '[INST]' + (system + '\\n\\n' if system and message == last else '') + message.content + '[/INST]' }}
    {%- elif message.tool_calls is defined and message.tool_calls is not none %}
        {{- '[TOOL_CALLS][' }}
        {%- for call in message.tool_calls %}
            {%- if call.id is undefined or call.id | length != 9 %}
                {{- raise_exception('ids must have nine letters or digits') }}
            {%- endif %}
            {%- set out = call.function | tojson %}
            {{- out[:-1] + ', "id": "' + call.id + '"}' + (', ' if not loop.last else ']' + eos_token) }}
        {%- endfor %}
    {%- elif message.role == 'assistant' %}
        {{- ' ' + message.content | trim + eos_token }}
    {%- elif message.role == 'tool' %}
        {{- '[TOOL_RESULTS]{"content": ' + message.content | string + ', "call_id": "' }}
        {{- message.tool_call_id + '"}[/TOOL_RESULTS]' }}
    {%- else %}{{- raise_exception('only user, assistant and tool messages') }}
    {%- endif %}
{%- endfor %}"""

HARMONY = """
{%- macro typed(schema) -%}
    {%- if schema.type == 'array' -%}{{ typed(schema['items']) }}[]
    {%- elif schema.enum -%}"{{ schema.enum | join('" | "') }}"
    {%- else -%}{{ schema.type or 'any' }}{%- endif -%}
{%- endmacro -%}
{{- '<|start|>system<|message|>Date: ' + strftime_now('%Y-%m') + '\\nReasoning: ' }}
{{- reasoning_effort if reasoning_effort is defined else 'medium' }}{{- '<|end|>' }}
{%- set first = messages[0].role in ['system', 'developer'] %}
{%- if first or tools %}
    {{- '<|start|>developer<|message|>' + (messages[0].content if first else '') }}
    {%- if tools %}
        {{- '\\nnamespace functions {' }}
        {%- for tool in tools | map(attribute='function') %}
            {{- '\\n// ' + (tool.description or '') + '\\ntype ' + tool.name + ' = (_: {' }}
            {%- for name, schema in tool.parameters.properties.items() %}
                {{- '\\n' + name + ('?' if name not in (tool.parameters.required or []) else '') + ': ' }}
                {{- typed(schema) + ',' }}
            {%- endfor %}
            {{- '\\n}) => any;' }}
        {%- endfor %}
        {{- '\\n}' }}
    {%- endif %}
    {{- '<|end|>' }}
{%- endif %}
{%- set called = namespace(name=none) %}
{%- for message in (messages[1:] if first else messages) %}
    {%- if message.role == 'assistant' %}
        {%- if '<|channel|>analysis' in (message.content or '') %}
            {{- raise_exception('no channels in content') }}
        {%- endif %}
        {%- if message.thinking and ('tool_calls' in message or loop.last) %}
            {{- '<|start|>assistant<|channel|>analysis<|message|>' + message.thinking + '<|end|>' }}
        {%- endif %}
        {%- if 'tool_calls' in message %}
            {%- set call = message.tool_calls[0].function %}{%- set called.name = call.name %}
            {{- '<|start|>assistant to=functions.' ~ call.name ~ '<|channel|>commentary<|message|>' }}
            {{- call.arguments | tojson }}{{- '<|call|>' }}
        {%- else %}
            {{- '<|start|>assistant<|channel|>final<|message|>' + message.content + '<|end|>' }}
        {%- endif %}
    {%- elif message.role == 'tool' %}
        {%- if called.name is none %}{{- raise_exception('an answer without a call') }}{%- endif %}
        {{- '<|start|>functions.' + called.name + ' to=assistant<|message|>' + message.content | tojson + '<|end|>' }}
    {%- else %}{{- '<|start|>user<|message|>' + message.content + '<|end|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start|>assistant' }}{%- endif %}"""

GRANITE = """
{%- if messages[0]['role'] == 'system' %}{%- set system = messages[0]['content'] %}
{%- else %}{%- set system = 'Today: ' + strftime_now('%B %Y') %}{%- endif %}
{{- '<|start_of_role|>system<|end_of_role|>' + system + '<|end_of_text|>\\n' }}
{%- if tools %}
    {{- '<|start_of_role|>tools<|end_of_role|>' + tools | tojson(indent=4) + '<|end_of_text|>\\n' }}
{%- endif %}
{%- if documents %}
    {%- for document in documents %}
        {{- '<|start_of_role|>document {"id": "' + document['doc_id'] | string + '"}<|end_of_role|>\\n' }}
        {{- document['text'] + '<|end_of_text|>\\n' }}
    {%- endfor %}
{%- endif %}
{%- for message in messages if message['role'] != 'system' %}
    {%- if message['role'] in ['user', 'assistant', 'tool', 'control'] %}
        {{- '<|start_of_role|>' + message['role'] + '<|end_of_role|>' + (message['content'] or '') }}
        {%- for call in message.tool_calls %}{{- '<tool_call>' + call | tojson(sort_keys=true) }}{%- endfor %}
        {{- '<|end_of_text|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_of_role|>assistant' + (' {"thinking": true}' if thinking else '') + '<|end_of_role|>' }}
{%- endif %}"""

GLM = """[gMASK]<sop>
{%- if tools -%}
<|system|>
# Tools
{% for tool in tools %}
{{ tool | tojson(ensure_ascii=False) }}
{% endfor %}
{%- endif -%}
{%- macro visible(content) -%}
    {%- if content is string -%}{{ content }}
    {%- elif content is iterable and content is not mapping -%}
        {%- for part in content -%}
            {%- if part is mapping and part.type == 'text' -%}{{ part.text }}
            {%- elif part is string -%}{{ part }}{%- endif -%}
        {%- endfor -%}
    {%- else -%}{{ content }}{%- endif -%}
{%- endmacro -%}
{%- for m in messages %}
    {%- if m.role == 'user' -%}<|user|>
{{ visible(m.content) }}
        {{- '/nothink' if enable_thinking is defined and not enable_thinking else '' }}
    {%- elif m.role == 'assistant' -%}<|assistant|>
        {%- if m.reasoning_content is string %}{{ '\\n<think>' + m.reasoning_content.strip() + '</think>' }}
        {%- else %}{{ '\\n<think></think>' }}{%- endif -%}
        {%- if visible(m.content).strip() %}{{ '\\n' + visible(m.content).strip() }}{%- endif -%}
        {%- for call in m.tool_calls or [] -%}
            {%- set call = call.function or call %}
            {{- '\\n<tool_call>' + call.name }}
            {%- for name, value in call.arguments.items() %}
<arg_key>{{ name }}</arg_key>
<arg_value>{{ value | tojson(ensure_ascii=False) if value is not string else value }}</arg_value>
            {%- endfor %}
</tool_call>
        {%- endfor -%}
    {%- elif m.role == 'tool' -%}
        {%- if loop.first or messages[loop.index0 - 1].role != 'tool' %}{{- '<|observation|>' }}{%- endif %}
        {{- '\\n' + visible(m.content) }}
    {%- elif m.role == 'system' -%}<|system|>
{{ visible(m.content) }}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}<|assistant|>
    {{- '\\n<think></think>' if enable_thinking is defined and not enable_thinking else '' }}
{%- endif -%}"""

COMMAND_R = """
{{- bos_token }}
{%- set seen = namespace(ids=[], sent=false) -%}
{%- for message in messages %}
    {%- if message.role | lower == 'system' %}
        {{- '<|turn|><|system|># Preamble\\n' ~ message.content | trim ~ '<|end|>' }}
    {%- elif message.role | lower == 'user' %}
        {{- '<|turn|><|user|>' ~ message.content ~ '<|end|>' }}
        {%- if documents and not seen.sent %}
            {%- set seen.sent = true %}
            {{- '<|turn|><|system|><results>' }}
            {%- for document in documents %}
                {{- '\\nDocument: ' ~ loop.index0 }}
                {%- for key, value in document.items() | sort %}{{- '\\n' ~ key ~ ': ' ~ value }}{%- endfor %}
            {%- endfor %}
            {{- '\\n</results><|end|>' }}
        {%- endif %}
    {%- elif message.role | lower == 'assistant' %}
        {{- '<|turn|><|chatbot|>' }}
        {%- if message.tool_calls %}
            {{- '[' }}
            {%- for call in message.tool_calls %}
                {{- '{"id": "' ~ loop.index0 ~ '", "name": "' ~ call['function']['name'] ~ '", "parameters": ' }}
                {{- call['function']['arguments'] | tojson }}{{- '}' ~ (',' if not loop.last else '') }}
            {%- endfor %}
            {{- ']' }}
        {%- else %}{{- message.content }}{%- endif %}
        {{- '<|end|>' }}
    {%- elif message.role | lower == 'tool' and message.tool_call_id not in seen.ids %}
        {{- '<|turn|><|system|>[' ~ message.content | tojson }}
        {%- for other in messages[loop.index0 + 1:] %}
            {%- if other.role | lower != 'tool' %}{%- break %}{%- endif %}
            {{- ',' ~ other.content | tojson }}{%- set seen.ids = seen.ids + [other.tool_call_id] %}
        {%- endfor %}
        {{- ']<|end|>' }}
    {%- endif %}
{%- endfor %}
{%- if tools %}{{- tools | map(attribute='function.name') | join(', ') }}{%- endif %}
{%- if add_generation_prompt %}{{- '<|turn|><|chatbot|>' }}{%- endif %}"""

# Takes contents as lists of parts only, as templates of multimodal models do.
PARTS = """
{%- for message in messages -%}
{{ '<|im_start|>' + message['role'] + '\\n' }}
{%- for part in message['content'] -%}{{ part['text'] if part['type'] == 'text' else '<image>' }}{%- endfor -%}
{{ '<|im_end|>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}"""

FAMILIES = {
    "qwen3": QWEN3,
    "hermes": HERMES,
    "deepseek": DEEPSEEK,
    "kimi": KIMI,
    "llama4 pythonic": LLAMA4_PYTHONIC,
    "llama json": LLAMA_JSON,
    "mistral": MISTRAL,
    "harmony": HARMONY,
    "granite": GRANITE,
    "glm": GLM,
    "command-r": COMMAND_R,
    "parts": PARTS,
}
