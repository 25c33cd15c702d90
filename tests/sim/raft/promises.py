"""Messages that promise something: what a master says in them must outlive it."""

from orca_master.state.raft.codec import (
    Append,
    AppendReply,
    Message,
    PieceReply,
    RequestVote,
    VoteReply,
)

PROMISES: tuple[type[Message], ...] = (VoteReply, AppendReply, PieceReply, RequestVote, Append)


def is_promise(message: Message) -> bool:
    match message:
        case VoteReply(is_granted=answer) | AppendReply(matches=answer):
            return answer
        case PieceReply(is_installed=answer):
            return answer
    return True
