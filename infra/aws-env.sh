# Read the variables of infra/env.example from the Parameter Store, below /ssd/. To be sourced: `. /app/aws-env.sh`.
# So that no secret is in infra/aws.yaml, on a disk or in an instance's user data; the node's role may read them.
variables=$(python - <<'END'
import shlex

import boto3

pages = boto3.client("ssm").get_paginator("get_parameters_by_path").paginate(Path="/ssd/", WithDecryption=True)
for parameter in (parameter for page in pages for parameter in page["Parameters"]):
    print(f"export {parameter['Name'].removeprefix('/ssd/')}={shlex.quote(parameter['Value'])}")
END
) || exit 1
eval "$variables"
: "${RAY_AUTH_TOKEN:?the Parameter Store has no /ssd/RAY_AUTH_TOKEN: see infra/README.md}"
export RAY_AUTH_MODE=token
