output "queue_name" {
  description = "WEBHOOKD_SQS_QUEUE"
  value       = aws_sqs_queue.queue.name
}

output "dead_letter_queue_name" {
  description = "WEBHOOKD_SQS_DEAD_LETTER_QUEUE"
  value       = aws_sqs_queue.dead_letter_queue.name
}

output "queue_url" {
  description = "WEBHOOKD_SQS_QUEUE, if the name alone is not enough, as in another account"
  value       = aws_sqs_queue.queue.url
}

output "dead_letter_queue_url" {
  description = "WEBHOOKD_SQS_DEAD_LETTER_QUEUE, likewise"
  value       = aws_sqs_queue.dead_letter_queue.url
}

output "region" {
  description = "WEBHOOKD_SQS_REGION, if the daemon runs in another region"
  value       = data.aws_region.current.region
}

output "daemon_policy_arn" {
  description = "For the role or user of the daemon, if this module makes none"
  value       = aws_iam_policy.daemon_policy.arn
}

output "operator_policy_arn" {
  description = "For those who run webhookd doctor, or redrive in the SQS console (to queue_name as the custom destination)"
  value       = aws_iam_policy.operator_policy.arn
}

output "key_policy_arn" {
  description = "For both, beside their own policy"
  value       = one(aws_iam_policy.key_policy[*].arn)
}

output "destination_policy_arn" {
  description = "For the role or user of the daemon, beside its own policy, if this module makes none"
  value       = one(aws_iam_policy.destination_policy[*].arn)
}

output "service_account_role_arn" {
  description = "For the annotation eks.amazonaws.com/role-arn of the daemon's service account"
  value       = one(aws_iam_role.service_account_role[*].arn)
}

output "pod_identity_role_arn" {
  description = "For the Pod Identity association of the daemon's service account"
  value       = one(aws_iam_role.pod_identity_role[*].arn)
}

output "instance_profile_name" {
  description = "For the EC2 instances that the daemon runs on"
  value       = one(aws_iam_instance_profile.instance_profile[*].name)
}
