"""The cluster launcher's file by Ray's own schema, Terraform's files by Terraform and by rules."""

import functools
import http.server
import json
import os
import re
import shutil
import subprocess
import threading

import pytest
from ray.autoscaler._private.util import prepare_config, validate_config

from tests.infra.files import INFRA, ROOT, launcher, ray_start, tool

pytestmark = pytest.mark.slow  # validators of other programs: seconds each

TERRAFORM = sorted((INFRA / "terraform").glob("*.tf"))


@functools.cache
def blocks():
    """All resources and data sources, strings without HCL's quotes."""
    import hcl2  # builds its parser: seconds, also for those that only list the tests

    parsed = [hcl2.loads(path.read_text()) for path in TERRAFORM]
    found = [block for file in parsed for block in file.get("resource", []) + file.get("data", [])]
    return json.loads(json.dumps(found).replace('\\"', ""))


def resource(kind, name):
    """The body of one resource or data source."""
    (body,) = [block[kind][name] for block in blocks() if name in block.get(kind, {})]
    return body


def test_the_launcher_takes_it():
    validate_config(prepare_config(launcher()))


def test_the_launcher_refuses_a_slip():
    wrong = launcher()
    wrong["available_node_types"]["gpu"]["node_confg"] = {}
    with pytest.raises(Exception, match="node_confg"):
        validate_config(prepare_config(wrong))


def test_workers_are_on_spot_and_the_head_is_not():
    types = launcher()["available_node_types"]
    assert "InstanceMarketOptions" not in types[launcher()["head_node_type"]]["node_config"]
    assert types["gpu"]["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert types["gpu"]["resources"]["GPU"] == 1
    for node in types.values():
        assert node["node_config"]["MetadataOptions"]["HttpTokens"] == "required"
        assert all(disk["Ebs"]["Encrypted"] for disk in node["node_config"]["BlockDeviceMappings"])


def test_ray_understands_the_commands_and_shows_the_dashboard_to_the_head_alone():
    for key in ("head_start_ray_commands", "worker_start_ray_commands"):
        stop, start = launcher()[key]
        assert stop == "ray stop"
        variables, command = start.split(" && ")
        assert variables == ". /app/aws-env.sh"
        options = ray_start(command.replace('"', "").split())
        assert options["head"] == (key == "head_start_ray_commands")
        assert not options["head"] or options["dashboard_host"] == "127.0.0.1"


def test_the_launcher_uses_what_terraform_makes():
    config = launcher()
    profiles = {node["node_config"]["IamInstanceProfile"]["Name"] for node in config["available_node_types"].values()}
    kinds = re.findall(r'toset\(\["(\w+)", "(\w+)"\]\)', (INFRA / "terraform/nodes.tf").read_text())
    assert profiles == {f"ssd-{kind}" for kind in kinds[0]}
    assert resource("aws_iam_role", "node")["name"] == "ssd-${each.key}"
    assert config["provider"]["security_group"] == {"GroupName": resource("aws_security_group", "ray")["name"]}
    variables = (INFRA / "terraform/variables.tf").read_text()
    assert re.findall(r'variable "region" {[^}]*default *= "([^"]+)"', variables) == [config["provider"]["region"]]
    assert f"AWS_DEFAULT_REGION={config['provider']['region']}" in " ".join(config["docker"]["run_options"])
    assert config["cluster_name"] in str(resource("aws_iam_policy_document", "head"))


class ParameterStore(http.server.BaseHTTPRequestHandler):
    """Two pages of parameters, as the Systems Manager's API words them."""

    parameters: dict

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert self.headers["X-Amz-Target"] == "AmazonSSM.GetParametersByPath"
        assert (asked["Path"], asked["WithDecryption"]) == ("/ssd/", True)
        pages = [[item] for item in self.parameters.items()]
        page = int(asked.get("NextToken", 0))
        answer = {"Parameters": [{"Name": f"/ssd/{name}", "Value": value} for name, value in pages[page]]}
        body = json.dumps(answer | ({"NextToken": str(page + 1)} if page + 1 < len(pages) else {})).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/x-amz-json-1.1")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *words):
        pass


def sourced(parameters, then):
    """`. aws-env.sh && then` beside a Parameter Store that holds these."""
    handler = type("Store", (ParameterStore,), {"parameters": parameters})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        variables = {
            "PATH": f"{os.path.dirname(tool('python'))}:{os.environ['PATH']}",
            "AWS_ENDPOINT_URL_SSM": f"http://127.0.0.1:{server.server_port}",
            "AWS_DEFAULT_REGION": "eu-central-1",
            "AWS_ACCESS_KEY_ID": "x",
            "AWS_SECRET_ACCESS_KEY": "x",
        }
        command = ["bash", "-c", f". {INFRA / 'aws-env.sh'} && {then}"]
        done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=120)
        server.shutdown()
    return done


def test_nodes_read_their_variables_whatever_is_in_them():
    value = "a 'b' \"c\" $d `e`"
    done = sourced({"RAY_AUTH_TOKEN": value, "STORAGE_URI": "s3://b/p"}, "env")
    assert {f"RAY_AUTH_TOKEN={value}", "STORAGE_URI=s3://b/p", "RAY_AUTH_MODE=token"} <= set(done.stdout.splitlines())


def test_a_node_without_a_token_does_not_start():
    done = sourced({"STORAGE_URI": "s3://b/p"}, "echo started")
    assert done.returncode != 0
    assert "has no /ssd/RAY_AUTH_TOKEN: see infra/README.md" in done.stderr
    assert "started" not in done.stdout


def terraform(*words, folder):
    if not tool("terraform"):
        pytest.skip("terraform is not here")
    command = [tool("terraform"), f"-chdir={folder}", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_terraform_would_format_it_so():
    done = terraform("fmt", "-check", "-diff", "-recursive", folder=INFRA / "terraform")
    assert (done.returncode, done.stdout) == (0, "")


def test_terraform_validates_it(tmp_path):
    for path in [*TERRAFORM, *(INFRA / "terraform").glob(".terraform*")]:
        (shutil.copytree if path.is_dir() else shutil.copy)(path, tmp_path / path.name)
    done = terraform("validate", "-no-color", folder=tmp_path)
    if "Missing required provider" in done.stdout + done.stderr:
        pytest.skip("the AWS provider is not here: `terraform -chdir=infra/terraform init`")
    assert done.returncode == 0, done.stderr


def test_every_name_that_terraform_refers_to_is_declared():
    text = re.sub(r"#.*", "", "\n".join(path.read_text() for path in TERRAFORM))
    declared = {f"var.{name}" for name in re.findall(r'variable "(\w+)"', text)}
    declared |= {f"{kind}.{name}" for kind, name in re.findall(r'resource "(\w+)" "(\w+)"', text)}
    declared |= {f"data.{kind}.{name}" for kind, name in re.findall(r'data "(\w+)" "(\w+)"', text)}
    used = set(re.findall(r"(?<![\w.])((?:var\.\w+|(?:data\.)?aws_\w+\.\w+))", text))
    assert used - declared == set()
    assert {name for name in declared if name.startswith("var.")} <= used


def test_the_bucket_is_closed():
    block = resource("aws_s3_bucket_public_access_block", "ssd")
    rules = ("block_public_acls", "block_public_policy", "ignore_public_acls", "restrict_public_buckets")
    assert [block[rule] for rule in rules] == [True] * 4
    assert "BucketOwnerEnforced" in str(resource("aws_s3_bucket_ownership_controls", "ssd"))
    assert "AES256" in str(resource("aws_s3_bucket_server_side_encryption_configuration", "ssd"))
    assert "Enabled" in str(resource("aws_s3_bucket_versioning", "ssd"))
    assert "abort_incomplete_multipart_upload" in str(resource("aws_s3_bucket_lifecycle_configuration", "ssd"))
    (deny,) = resource("aws_iam_policy_document", "tls_only")["statement"]
    assert (deny["effect"], deny["actions"]) == ("Deny", ["s3:*"])
    assert deny["condition"][0]["variable"] == "aws:SecureTransport"


@pytest.mark.parametrize("name", ["node", "head"])
def test_nodes_may_do_no_more_than_is_named(name):
    for statement in resource("aws_iam_policy_document", name)["statement"]:
        assert not [action for action in statement["actions"] if "*" in action]
        reads = all(action.startswith("ec2:Describe") for action in statement["actions"])
        assert reads or "*" not in statement["resources"]


def test_secrets_and_state_stay_out_of_git():
    for path in ("infra/.env", "infra/terraform/terraform.tfstate", "infra/terraform/.terraform/x"):
        assert subprocess.run(["git", "check-ignore", "-q", path], cwd=ROOT).returncode == 0, path
