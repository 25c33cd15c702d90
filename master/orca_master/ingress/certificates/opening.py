"""How an order by ACME is opened: the library is loaded only where it is needed."""

from orca_master.ingress.certificates.authority import Account, Refused, Session


def open_acme(account: Account) -> Session:
    """Raises Refused: the library comes with an extra."""
    try:
        from orca_master.ingress.certificates.acme_session import AcmeSession
    except ImportError as error:
        raise Refused(
            f"this master has no ACME client ({error}): install it with"
            " `pip install 'orca-cluster[ingress]'`"
        ) from error
    return AcmeSession(account)
