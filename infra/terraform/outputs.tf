output "storage_uri" {
  description = "STORAGE_URI of infra/env.example."
  value       = "s3://${aws_s3_bucket.ssd.bucket}/main"
}

output "instance_profiles" {
  description = "IamInstanceProfile of the head and of the workers in infra/aws.yaml."
  value       = { for kind, profile in aws_iam_instance_profile.node : kind => profile.name }
}
