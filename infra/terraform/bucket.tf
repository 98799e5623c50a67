# One bucket for everything. What is lost here is lost: `terraform destroy` refuses while it holds anything.
resource "aws_s3_bucket" "ssd" {
  bucket = var.bucket
}

resource "aws_s3_bucket_ownership_controls" "ssd" {
  bucket = aws_s3_bucket.ssd.id
  rule {
    object_ownership = "BucketOwnerEnforced" # no ACLs: the policies alone say who may do what
  }
}

resource "aws_s3_bucket_public_access_block" "ssd" {
  bucket                  = aws_s3_bucket.ssd.id
  block_public_acls       = true
  block_public_policy     = true
  ignore_public_acls      = true
  restrict_public_buckets = true
}

resource "aws_s3_bucket_server_side_encryption_configuration" "ssd" {
  bucket = aws_s3_bucket.ssd.id
  rule {
    apply_server_side_encryption_by_default {
      sse_algorithm = "AES256"
    }
  }
}

resource "aws_s3_bucket_versioning" "ssd" {
  bucket = aws_s3_bucket.ssd.id
  versioning_configuration {
    status = "Enabled" # against a wrong `dvc gc` or `rm`
  }
}

resource "aws_s3_bucket_lifecycle_configuration" "ssd" {
  bucket     = aws_s3_bucket.ssd.id
  depends_on = [aws_s3_bucket_versioning.ssd]

  rule {
    id     = "unfinished-uploads" # of processes that were killed: invisible, but paid for
    status = "Enabled"
    filter {}
    abort_incomplete_multipart_upload {
      days_after_initiation = 7
    }
  }

  rule {
    id     = "old-versions" # each checkpoint that was replaced leaves one
    status = "Enabled"
    filter {}
    noncurrent_version_expiration {
      noncurrent_days = var.keep_days
    }
    expiration {
      expired_object_delete_marker = true
    }
  }
}

data "aws_iam_policy_document" "tls_only" {
  statement {
    sid       = "TlsOnly"
    effect    = "Deny"
    actions   = ["s3:*"]
    resources = [aws_s3_bucket.ssd.arn, "${aws_s3_bucket.ssd.arn}/*"]
    principals {
      type        = "*"
      identifiers = ["*"]
    }
    condition {
      test     = "Bool"
      variable = "aws:SecureTransport"
      values   = ["false"]
    }
  }
}

resource "aws_s3_bucket_policy" "ssd" {
  bucket     = aws_s3_bucket.ssd.id
  policy     = data.aws_iam_policy_document.tls_only.json
  depends_on = [aws_s3_bucket_public_access_block.ssd]
}
