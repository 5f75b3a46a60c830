"""Scans a TLS server as sslyze does, and compares it with a profile of Mozilla's guideline.

Arguments: address, port, name, file with the CA, profile. Answers with one line of JSON: what is
not as the profile says, an empty object when nothing is.
"""

import json
import sys
from pathlib import Path

from sslyze import (
    CertificateInfoExtraArgument,
    Scanner,
    ScanCommandsExtraArguments,
    ServerNetworkLocation,
    ServerScanRequest,
)
from sslyze.mozilla_tls_profile import tls_config_checker as mozilla

address, port, name, authority, profile = sys.argv[1:]
where = ServerNetworkLocation(hostname=name, port=int(port), ip_address=address)
trust = CertificateInfoExtraArgument(custom_ca_file=Path(authority))
scanner = Scanner()
scanner.queue_scans(
    [
        ServerScanRequest(
            server_location=where,
            scan_commands=mozilla.SCAN_COMMANDS_NEEDED_BY_MOZILLA_CHECKER,
            scan_commands_extra_arguments=ScanCommandsExtraArguments(certificate_info=trust),
        )
    ]
)
wanted = mozilla.MozillaTlsConfiguration.get(mozilla.TlsConfigurationEnum(profile))
for result in scanner.get_results():
    issues = {}
    try:
        mozilla.check_server_against_tls_configuration(result, wanted)
    except mozilla.ServerNotCompliantWithTlsConfiguration as refused:
        issues = refused.issues
    print(json.dumps(issues), flush=True)
