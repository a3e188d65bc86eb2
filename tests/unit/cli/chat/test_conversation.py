"""What is said to the model: turns, answers, tool calls and their results, and the lines that are commands."""

import pytest

from cluster.cli.client.chat.answer import Answer
from cluster.cli.client.chat.commands import HELP, Commands, Next
from cluster.cli.client.chat.conversation import Conversation
from router_service.protocol import inference_pb2 as pb


def answer_of(*responses: pb.GenerateResponse) -> Answer:
    answer = Answer()
    for response in responses:
        answer.add(response)
    return answer


def call(id: str, name: str, index: int = 0, arguments: str = "") -> pb.ToolCallDelta:
    return pb.ToolCallDelta(index=index, id=id, name=name, arguments=arguments)


def talk() -> tuple[Conversation, Commands, list[str]]:
    conversation, said = Conversation(), list[str]()
    return conversation, Commands(conversation, said.append), said


def test_an_answer_is_put_together() -> None:
    answer = answer_of(
        pb.GenerateResponse(reasoning="Let me "),
        pb.GenerateResponse(reasoning="see.", text="I "),
        pb.GenerateResponse(text="look.", tool_calls=[call("a", "weather"), call("", "", 0, '{"city": ')]),
        pb.GenerateResponse(tool_calls=[call("", "", 0, '"Ulm"}'), call("b", "time", 1, "{}")]),
        pb.GenerateResponse(finish_reason=pb.TOOL_CALLS),
    )
    assert answer.finish == pb.TOOL_CALLS
    assert answer.message() == {
        "role": "assistant",
        "content": "I look.",
        "reasoning_content": "Let me see.",
        "tool_calls": [
            {"id": "a", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Ulm"}'}},
            {"id": "b", "type": "function", "function": {"name": "time", "arguments": "{}"}},
        ],
    }


def test_a_call_that_was_cut_is_left_out() -> None:
    cut = pb.GenerateResponse(tool_calls=[call("a", "weather", 0, '{"ci')])
    assert answer_of(pb.GenerateResponse(text="I"), cut).message() == {"role": "assistant", "content": "I"}
    assert answer_of(cut).message() is None


def test_a_turn_without_an_answer_is_taken_back() -> None:
    conversation = Conversation("Be brief.")
    conversation.say("hello")
    conversation.answered({"role": "assistant", "content": "hi"})
    conversation.say("lost")
    conversation.answered(answer_of().message())
    assert [turn["content"] for turn in conversation.messages()] == ["Be brief.", "hello", "hi"]


def test_results_go_to_the_calls_in_order() -> None:
    conversation, commands, said = talk()
    commands.take("what is it like there?")
    conversation.answered(
        answer_of(
            pb.GenerateResponse(tool_calls=[call("a", "weather"), call("b", "time", 1)], finish_reason=pb.TOOL_CALLS)
        ).message()
    )
    assert commands.take('/result {"rain": true}') is Next.LINE
    assert said == ["next: the result of time"]
    assert commands.take("/result noon") is Next.ANSWER
    assert conversation.turns[-2:] == [
        {"role": "tool", "tool_call_id": "a", "content": '{"rain": true}'},
        {"role": "tool", "tool_call_id": "b", "content": "noon"},
    ]
    with pytest.raises(ValueError, match="no tool call waits"):
        commands.take("/result again")


def test_commands() -> None:
    conversation, commands, said = talk()
    assert commands.take("/system  Be brief. ") is Next.LINE
    assert commands.take("/think off") is Next.LINE
    assert commands.take("hello /there") is Next.ANSWER
    assert commands.take("//usr is what?") is Next.ANSWER
    assert commands.take("  ") is Next.LINE
    assert conversation.template_kwargs == {"enable_thinking": False}
    assert [turn["content"] for turn in conversation.messages()] == ["Be brief.", "hello /there", "/usr is what?"]
    assert commands.take("/reset") is Next.LINE
    assert conversation.messages() == [{"role": "system", "content": "Be brief."}]
    commands.take("/system")
    assert conversation.messages() == []
    said.clear()
    assert commands.take("/help") is Next.LINE
    assert said == HELP.splitlines()
    assert commands.take("/quit") is Next.END


@pytest.mark.parametrize(
    ("line", "said"), [("/thinking", "there is no /thinking; /help"), ("/think maybe", "/think: must be on or off")]
)
def test_what_is_no_command_is_said(line: str, said: str) -> None:
    conversation, commands, _ = talk()
    with pytest.raises(ValueError, match=said):
        commands.take(line)
    assert conversation.messages() == []
