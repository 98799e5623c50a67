# What the nodes of infra/aws.yaml may do: all use the bucket and read their variables, the head starts workers.
data "aws_caller_identity" "this" {}

locals {
  account = data.aws_caller_identity.this.account_id
}

data "aws_iam_policy_document" "ec2_assumes" {
  statement {
    actions = ["sts:AssumeRole"]
    principals {
      type        = "Service"
      identifiers = ["ec2.amazonaws.com"]
    }
  }
}

data "aws_iam_policy_document" "node" {
  statement {
    sid       = "Bucket"
    actions   = ["s3:ListBucket", "s3:ListBucketMultipartUploads", "s3:GetBucketLocation"]
    resources = [aws_s3_bucket.ssd.arn]
  }
  statement {
    sid = "Objects" # deleting leaves the old version behind, which nobody here may delete
    actions = [
      "s3:GetObject", "s3:PutObject", "s3:DeleteObject",
      "s3:AbortMultipartUpload", "s3:ListMultipartUploadParts",
    ]
    resources = ["${aws_s3_bucket.ssd.arn}/*"]
  }
  statement {
    sid     = "Variables"
    actions = ["ssm:GetParametersByPath"]
    resources = [
      "arn:aws:ssm:${var.region}:${local.account}:parameter/ssd",
      "arn:aws:ssm:${var.region}:${local.account}:parameter/ssd/*",
    ]
  }
}

# What Ray's autoscaler calls (ray/autoscaler/_private/aws): nothing that ends a node of somebody else.
data "aws_iam_policy_document" "head" {
  source_policy_documents = [data.aws_iam_policy_document.node.json]

  statement {
    sid       = "Look"
    actions   = ["ec2:DescribeInstances", "ec2:DescribeInstanceTypes"]
    resources = ["*"]
  }
  statement {
    sid       = "StartWorkers"
    actions   = ["ec2:RunInstances"]
    resources = ["arn:aws:ec2:${var.region}:*:*"]
  }
  statement {
    sid       = "NameWhatItStarts"
    actions   = ["ec2:CreateTags"]
    resources = ["arn:aws:ec2:${var.region}:${local.account}:*"]
    condition {
      test     = "StringEquals"
      variable = "ec2:CreateAction"
      values   = ["RunInstances"]
    }
  }
  statement {
    sid       = "ReadImageName"
    actions   = ["ssm:GetParameters"]
    resources = ["arn:aws:ssm:${var.region}::parameter/aws/service/deeplearning/*"]
  }
  statement {
    sid       = "RenameAndEndWorkers"
    actions   = ["ec2:CreateTags", "ec2:TerminateInstances"]
    resources = ["arn:aws:ec2:${var.region}:${local.account}:instance/*"]
    condition {
      test     = "StringEquals"
      variable = "ec2:ResourceTag/ray-cluster-name"
      values   = ["ssd"]
    }
  }
  statement {
    sid       = "GiveWorkersTheirRole"
    actions   = ["iam:PassRole"]
    resources = [aws_iam_role.node["worker"].arn]
    condition {
      test     = "StringEquals"
      variable = "iam:PassedToService"
      values   = ["ec2.amazonaws.com"]
    }
  }
}

resource "aws_iam_role" "node" {
  for_each           = toset(["head", "worker"])
  name               = "ssd-${each.key}"
  assume_role_policy = data.aws_iam_policy_document.ec2_assumes.json
}

resource "aws_iam_instance_profile" "node" {
  for_each = aws_iam_role.node
  name     = each.value.name
  role     = each.value.name
}

resource "aws_iam_role_policy" "head" {
  name   = "ssd"
  role   = aws_iam_role.node["head"].id
  policy = data.aws_iam_policy_document.head.json
}

resource "aws_iam_role_policy" "worker" {
  name   = "ssd"
  role   = aws_iam_role.node["worker"].id
  policy = data.aws_iam_policy_document.node.json
}
